# The HTTP API of bins/serve.py on a CPU or, with --build-arg TORCH=cu130, on an NVIDIA GPU:
#   docker build -t vallet:cpu .
FROM python:3.12-slim-bookworm

# "cpu", or a CUDA version that PyTorch has an index for.
ARG TORCH=cpu
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --create-home --uid 1000 vallet \
    && mkdir -p /app /models /voices /home/vallet/.cache \
    && chown vallet:vallet /models /voices /home/vallet/.cache
WORKDIR /app

# The versions are those of pyproject.toml. This layer is large, and is built again only if they change.
RUN pip install torch==2.11.0 torchaudio==2.11.0 --index-url "https://download.pytorch.org/whl/${TORCH}"

# Installed in place: paths in configs start here.
COPY pyproject.toml README.md LICENSE ./
COPY config ./config
COPY utils ./utils
COPY modules ./modules
COPY processors ./processors
COPY models ./models
COPY training ./training
COPY synthesis ./synthesis
COPY evaluation ./evaluation
COPY recordings ./recordings
COPY benchmarks ./benchmarks
COPY vallet ./vallet
COPY web ./web
COPY bins ./bins
COPY egs ./egs
RUN pip install --editable ".[serve]"

# Saved voices, and the folders of trained experiments.
ENV VALLET_VOICES=/voices
VOLUME ["/voices", "/models"]

# The number of vallet, which orchestrators can check.
USER 1000
EXPOSE 8000
# A model may take a minute to load from a slow disk.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "bins.serve"]
CMD ["--host", "0.0.0.0", "--port", "8000", "--log_dir", "/models"]
