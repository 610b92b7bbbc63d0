from setuptools import find_packages, setup

package_name = "softflow_learner"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
    ],
    # torch and safetensors are pip packages: see requirements/.
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="softflow maintainers",
    maintainer_email="maintainers@example.com",
    description="The asynchronous learner: replay, losses, agent, the four stages, checkpoints, node, CLI.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "learner_node = softflow_learner.node:main",
            "train = softflow_learner.cli:main",
        ]
    },
)
