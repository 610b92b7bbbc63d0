from setuptools import find_packages, setup

package_name = "hand_driver"

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
    description="Drives the hand: four device verbs, safety, chunk playback; back ends sim, dynamixel, orca and mock.",
    license="Apache-2.0",
    entry_points={"console_scripts": ["driver_node = hand_driver.node:main"]},
)
