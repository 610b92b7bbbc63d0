"""Experiments in simulation, in one process and without ROS: methods compared, distillation, public benchmarks."""
