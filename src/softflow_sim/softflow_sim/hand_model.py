"""MJCF of the four-finger hands, written from primitives.

Only fingertips and objects collide: links never touch anything, which keeps contacts few and the physics fast.
The visual flags are those that let a software renderer draw hundreds of frames a second.
"""

from __future__ import annotations

from softflow_tasks import gantry, palmdown

TIMESTEP = 0.005
"""[s] physics step."""

_SERVO = '<position name="{0}" joint="{0}" class="servo"/>'
_GANTRY_SERVO = '<position name="{0}" joint="{0}" class="gantry"/>'


def _finger(index: int, height: float, abduction: bool) -> str:
    angle = 360.0 * index / palmdown.FINGERS
    name = f"finger{index}"
    tip = palmdown.DISTAL
    sideways = (
        f'<joint name="{name}_abduction" axis="1 0 0" range="-35 35" class="joint"/>' if abduction else ""
    )
    return f"""
    <body name="{name}_base" euler="0 0 {angle}" pos="0 0 {height}">
      <body name="{name}_proximal" pos="{palmdown.BASE_RADIUS} 0 0">
        {sideways}
        <geom type="sphere" size="0.011" class="link"/>
        <joint name="{name}_mcp" axis="0 1 0" range="-60 60" class="joint"/>
        <geom type="capsule" fromto="0 0 0 0 0 -{palmdown.PROXIMAL}" size="0.008" class="link"/>
        <body name="{name}_distal" pos="0 0 -{palmdown.PROXIMAL}">
          <joint name="{name}_pip" axis="0 1 0" range="0 110" class="joint"/>
          <geom type="capsule" fromto="0 0 0 0 0 -{tip - 0.012}" size="0.0075" class="link"/>
          <geom name="{name}_tip" type="sphere" pos="0 0 -{tip}" size="{palmdown.TIP_RADIUS}" class="tip"/>
        </body>
      </body>
    </body>"""


def _palm(height: float, attributes: str = "") -> str:
    return f'<geom type="cylinder" size="0.06 0.008" pos="0 0 {height + 0.012}" class="link" {attributes}/>'


def hand_mjcf(scene: str, name: str, assets: str = "") -> str:
    """A complete MJCF document: the palm-down hand above a floor, plus `scene` (world body elements) and `assets`."""
    fingers = "".join(_finger(i, palmdown.BASE_HEIGHT, abduction=True) for i in range(palmdown.FINGERS))
    hand = _palm(palmdown.BASE_HEIGHT, 'rgba=".3 .3 .35 1"') + fingers
    camera = 'pos="0.22 -0.22 0.12" xyaxes="0.707 0.707 0 -0.12 0.12 1"'
    servos = [_SERVO.format(joint) for joint in palmdown.JOINT_NAMES]
    return _document(name, hand + scene, servos, camera, assets)


def gantry_hand_mjcf(scene: str, name: str) -> str:
    """A complete MJCF document: the hand on a gantry above a floor, plus `scene` (world body elements)."""
    fingers = "".join(_finger(i, 0.0, abduction=False) for i in range(palmdown.FINGERS))
    slides = "".join(
        f'<joint name="gantry_{axis}" type="slide" axis="{i == 0:d} {i == 1:d} {i == 2:d}" range="-.2 .2" damping="5"/>'
        for i, axis in enumerate(gantry.AXES)
    )
    # The drives carry the hand's weight.
    palm = _palm(0.0, 'mass="0.1" rgba=".3 .3 .35 1"')
    hand = f'<body name="palm" pos="0 0 {gantry.PALM_HEIGHT}" gravcomp="1">{slides}{palm}{fingers}</body>'
    axes, joints = gantry.JOINT_NAMES[gantry.GANTRY], gantry.JOINT_NAMES[gantry.FINGER_JOINTS]
    actuators = [_GANTRY_SERVO.format(joint) for joint in axes] + [_SERVO.format(joint) for joint in joints]
    return _document(name, hand + scene, actuators, 'pos="0.30 0 0.22" xyaxes="0 1 0 -0.45 0 1"')


def _document(name: str, world: str, actuators: list[str], camera: str, assets: str = "") -> str:
    lines = "\n    ".join(actuators)
    return f"""
<mujoco model="{name}">
  <compiler angle="degree" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="20"
          ls_iterations="20"/>
  <visual>
    <global offwidth="640" offheight="480"/>
    <quality shadowsize="0" offsamples="0" numslices="12" numstacks="8"/>
    <headlight ambient=".4 .4 .4" diffuse=".6 .6 .6"/>
  </visual>
  <default>
    <default class="joint"><joint damping="0.02" armature="0.0005" frictionloss="0.01"/></default>
    <default class="link"><geom mass="0.012" contype="0" conaffinity="0" rgba=".75 .75 .8 1"/></default>
    <default class="tip">
      <geom mass="0.006" contype="1" conaffinity="2" condim="4" friction="1.0 0.01 0.0001" solref="0.01 1"
            rgba=".2 .2 .2 1" priority="1"/>
    </default>
    <default class="servo"><position kp="1.5" kv="0.06" forcerange="-0.6 0.6" inheritrange="1"/></default>
    <default class="gantry"><position kp="400" kv="30" forcerange="-40 40" inheritrange="1"/></default>
  </default>
  <asset>{assets}
  </asset>
  <worldbody>
    <light pos="0.3 -0.3 0.6" dir="-.4 .4 -1" castshadow="false"/>
    <geom name="floor" type="plane" size=".3 .3 .1" contype="1" conaffinity="2" rgba=".35 .4 .45 1"/>
    <camera name="camera" {camera}/>
    {world}
  </worldbody>
  <actuator>
    {lines}
  </actuator>
</mujoco>"""
