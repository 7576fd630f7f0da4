# The live server. docs/operating.md says how it is built and run.
#   docker build --build-arg TORCH_INDEX=INDEX_OF_CPU_BUILDS -t gwm .
#   docker build --build-arg DEVICE=cuda --build-arg FLEET=1 -t gwm:cuda .
ARG PYTHON=3.11.14-slim-bookworm
FROM python:${PYTHON}
# cuda: torch as PyPI has it, with CUDA's libraries, and a compiler for Triton's launchers; the driver is the host's.
ARG DEVICE=cpu
ARG TORCH_INDEX=
# 1: Ray and Postgres' client too, for workers and head of a fleet.
ARG FLEET=
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# Debian keeps the newest version of a package alone. KubeRay's probes call wget.
# hadolint ignore=DL3008
RUN packages=(ca-certificates); \
    if [[ $DEVICE = cuda ]]; then packages+=(gcc libc6-dev); fi; \
    if [[ -n $FLEET ]]; then packages+=(wget); fi; \
    apt-get update; \
    apt-get install -y --no-install-recommends "${packages[@]}"; \
    rm -rf /var/lib/apt/lists/*

WORKDIR /gwm
COPY requirements.txt ./
RUN PIP_INDEX_URL="$TORCH_INDEX" pip install --no-cache-dir --no-compile torch==2.13.0; \
    pip install --no-cache-dir --no-compile --no-deps -r requirements.txt
RUN if [[ -n $FLEET ]]; then \
    pip install --no-cache-dir --no-compile -c requirements.txt "ray[serve]==2.60.0" "psycopg[binary]==3.3.9"; fi

COPY . .
RUN useradd --uid 1000 --create-home gwm; \
    mkdir store; \
    chown gwm store
USER 1000
VOLUME /gwm/store

# Freed memory is kept, as by the Makefile.
ENV PYTHONPATH=/gwm PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0 \
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8080
HEALTHCHECK --start-period=300s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=5)"]
ENTRYPOINT ["python", "-m", "serve", "host=0.0.0.0"]
