from setuptools import Extension, find_packages, setup

package_name = "softflow_policy"

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
    zip_safe=False,
    # Without a C compiler PyTorch does it all.
    ext_modules=[
        Extension(
            f"{package_name}._native",
            [f"{package_name}/native.c"],
            extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math"],
            optional=True,
        )
    ],
    maintainer="softflow maintainers",
    maintainer_email="maintainers@example.com",
    description="The flow policy over action chunks: flow, critic, planner, weights codec, inference node.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "policy_node = softflow_policy.node:main",
            "success_node = softflow_policy.success.node:main",
        ]
    },
)
