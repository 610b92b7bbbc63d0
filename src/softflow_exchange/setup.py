from setuptools import find_packages, setup

package_name = "softflow_exchange"

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
    description="Episodes from and to other formats: foreign rosbags through a mapping file, LeRobot datasets.",
    license="Apache-2.0",
)
