# dgrl on a CPU. In the folder of a project, or an empty one for dgrl init:
#     docker build --tag dgrl .          with CUDA's 5 GB; without, by the pip options of PyTorch's CPU builds:
#     docker build --tag dgrl --build-arg TORCH_OPTIONS=OPTIONS .
#     docker run --rm --interactive --tty --user "$(id -u):$(id -g)" --volume "$PWD:/project" dgrl dvc repro
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
ENV HOME=/tmp PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /source
COPY constraints.txt .
# torch and torchvision from one index: a CPU torch with the other index's torchvision does not import.
ARG TORCH_OPTIONS
RUN pip install --constraint constraints.txt setuptools wheel numpy \
    && pip install --constraint constraints.txt ${TORCH_OPTIONS} torch torchvision
COPY pyproject.toml README.md LICENSE dvc.yaml params.yaml ./
COPY presets presets
COPY dgrl dgrl
COPY pipeline pipeline
RUN pip install --constraint constraints.txt --no-build-isolation . && rm -rf /source

WORKDIR /project
CMD ["dgrl", "--help"]
