# slimctl with CUDA builds of PyTorch, for Kubernetes, `ray up` and machines with the NVIDIA toolkit:
#
#   docker build -t registry/slimctl:0.2.0 .
#   docker run --rm --gpus all registry/slimctl:0.2.0 slimctl doctor
#
# PyPI's Linux wheels of PyTorch bring CUDA; --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
# (or cpu) takes others. Nothing runs as root.
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# KubeRay's probes call wget; Triton compiles with a C compiler.
RUN apt-get update && apt-get install --no-install-recommends --yes gcc libc6-dev wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/slimctl
COPY constraints.txt .
RUN torch="$(grep '^torch==' constraints.txt)" \
    && pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple "$torch"
COPY . .
RUN pip install --constraint constraints.txt '.[diffusers,onnx,fast]'

RUN useradd --create-home --uid 1000 slimctl
USER 1000
WORKDIR /home/slimctl
CMD ["slimctl", "--help"]
