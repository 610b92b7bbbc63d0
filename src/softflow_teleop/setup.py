from setuptools import find_packages, setup

package_name = "softflow_teleop"

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
    description="A human takes the hand: joint targets, gamepad and keyboard become action chunks.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "keyboard_node = softflow_teleop.keyboard.node:main",
            "teleop_node = softflow_teleop.node:main",
        ]
    },
)
