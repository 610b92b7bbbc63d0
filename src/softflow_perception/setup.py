from setuptools import find_packages, setup

package_name = "softflow_perception"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="softflow maintainers",
    maintainer_email="maintainers@example.com",
    description="Cameras, object poses from tags, and sensors aligned to the observation vector.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "camera_node = softflow_perception.camera.node:main",
            "frames_node = softflow_perception.frames.node:main",
            "perception_node = softflow_perception.node:main",
            "pose_node = softflow_perception.pose.node:main",
        ]
    },
)
