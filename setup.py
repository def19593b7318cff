"""Packaging: `pip install .` needs jax and optax and nothing else."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
# Read as text: importing gradlens here would need jax at build time.
VERSION = re.search(
    r"^__version__ = '(.+)'$",
    (ROOT / 'gradlens' / '__init__.py').read_text(encoding='utf-8'),
    re.MULTILINE,
)[1]

# Every bound has its reason. Lower bounds only: the jax that is installed
# stays as it is. tests/packaging_test.py runs the library at these versions.
LIBRARY = [
    'jax>=0.7.0',
    'optax>=0.2.5',
]

TRAIN = [
    'absl-py>=2.0',
    'clu>=0.0.12',
    'flax>=0.12',
    'grain>=0.2.11',
    # Fetches models by name, and splits large ones into files.
    'huggingface-hub>=1.0',
    # What tensorflow-datasets imports and does not ask for.
    'importlib-resources>=6.0',
    # What transformers renders chat templates with, and asks for.
    'jinja2>=3.1.6',
    # Tells whether two answers in LaTeX are equal.
    'math-verify>=0.9',
    'ml-collections>=1.0',
    'orbax-checkpoint>=0.11.24',
    # Reads parquet files; tensorflow-datasets brings it too.
    'pyarrow>=20.0',
    'reasoning-gym>=0.1.25',
    # The first seen to give parts of bfloat16 tensors to numpy.
    'safetensors>=0.8',
    # Its bootstrap takes a generator since then.
    'scipy>=1.15',
    'tensorboard>=2.18',
    'tensorflow-cpu>=2.18',
    # Its data sources read array_record files at random; base of our builders.
    'tensorflow-datasets>=4.9.9',
    'tqdm>=4.66',
    'transformers>=5.0',
]

# What experiments/ reads its tables with, and draws its figures, as the
# notebooks of colabs/ do.
STUDIES = [
    'matplotlib>=3.9',
    'pandas>=2.2',
    # Mixed-effects regression.
    'statsmodels>=0.14',
]

# Builds the site of docs/: some 20 small packages, in the versions seen to work
# or later.
DOCS = [
    # Formulas without a script: browsers draw MathML by themselves.
    'latex2mathml>=3.81',
    # The first with `File.generated`, which pages from outside of docs/ are.
    'mkdocs>=1.6',
    # Without its offline plugin, which asks another host for a script.
    'mkdocs-material>=9.8',
    # Reads docstrings without importing anything.
    'mkdocstrings-python>=2.0.11',
]

TEST = [
    # What tensorflow-datasets' test of builders imports and does not ask for.
    'dill>=0.3.9',
    # The kernel in which tests run the notebooks of colabs/.
    'ipykernel>=6.29',
    # Runs a notebook from top to bottom.
    'nbclient>=0.10',
    'pytest>=8.0',
    'pytest-xdist>=3.5',
    'ruff>=0.9',
    'torch==2.13.0',
]

# What the peer in `make bench` needs, in an environment of its own.
BENCH = [
    'numpy>=2.0',
    # Reads the weights that gradlens saves.
    'safetensors>=0.5',
    # A CPU build; any other would bring gigabytes of CUDA.
    'torch==2.13.0',
    # The first with all that is compared; in full, with its solvers.
    'torchjd[full]>=0.18',
]

AOT = [
    # Compiles for TPUs where there are none.
    'libtpu>=0.0.42',
]

# What the peers of `benchmarks.grpo` need; an environment for each.
BENCH_TRL = [
    'datasets>=4.0',
    # A CPU build; any other would bring gigabytes of CUDA.
    'torch==2.13.0',
    # The version that was measured.
    'trl==1.16.0',
]
BENCH_TUNIX = [
    # Its models, sampler and trainer have changed names between versions.
    'google-tunix==0.1.7',
]

setuptools.setup(
    name='gradlens',
    version=VERSION,
    description=(
        'Measures the gradient of every task inside the training step, and '
        'corrects the update, as an optax transformation.'
    ),
    author='The gradlens Authors',
    license='Apache-2.0',
    # The first Python of jax 0.10, the tested one.
    python_requires='>=3.11',
    packages=[
        *setuptools.find_packages(include=['gradlens', 'gradlens.*']),
        'gradlens.configs',
    ],
    # The configs lie at the top level, where they are read and edited; the
    # wheel carries them too, so that a notebook needs no clone.
    package_dir={'gradlens.configs': 'configs'},
    package_data={
        'gradlens.report': ['assets/*.css', 'assets/*.js'],
        'gradlens.tasks.builders': ['checksums.tsv'],
        'gradlens.models': ['warm/*.safetensors', 'warm/*.json', 'warm/*.md'],
    },
    install_requires=LIBRARY,
    extras_require={
        'train': TRAIN,
        'tpu': ['jax[tpu]'],
        'cuda': ['jax[cuda13]'],
        'aot': AOT,
        'bench': BENCH,
        'bench-trl': BENCH_TRL,
        'bench-tunix': BENCH_TUNIX,
        'docs': DOCS,
        'studies': [*TRAIN, *STUDIES],
        'test': [*TRAIN, *AOT, *DOCS, *STUDIES, *TEST],
    },
)
