# Image for coordinator and sites: flower-server, flower-client, flower-simulate.
# How to run it: docs/how_to/deployment.md.
#
#   docker build -t memamba-federated:0.3.0 .
#   docker build -t memamba-federated:0.3.0-gpu --build-arg GPU=yes \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#
# BASE_IMAGE   Debian, with or without python3.11; without it Debian's own is installed
# EXTRAS       of pyproject.toml, comma-separated: privacy
# GPU          yes: keep a C compiler, because Triton compiles the launchers of its kernels at run time
# TORCH_INDEX  index for torch in addition to PyPI; empty: only PyPI, whose torch brings gigabytes of CUDA
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS python
RUN command -v python3.11 || { apt-get update && apt-get install --yes --no-install-recommends python3.11 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log; }

FROM python AS requirements
ARG EXTRAS=""
COPY pyproject.toml /
RUN python3.11 -c 'import sys, tomllib; project = tomllib.load(open("/pyproject.toml", "rb"))["project"]; \
wanted = filter(None, sys.argv[1].split(",")); \
print(*project["dependencies"], *sum((project["optional-dependencies"][e] for e in wanted), []), sep="\n")' \
      "${EXTRAS}" > /requirements.txt

FROM python AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# pip and hatchling stay in this stage.
RUN python3.11 -c 'import ensurepip' || { apt-get update && apt-get install --yes --no-install-recommends python3.11-venv; }
COPY constraints.txt .
RUN python3.11 -m venv tools \
    && tools/bin/pip install --constraint constraints.txt hatchling \
    && python3.11 -m venv --without-pip /opt/memamba
# Dependencies first, so that torch is installed again only when they change.
COPY --from=requirements /requirements.txt .
RUN tools/bin/pip --python /opt/memamba/bin/python install --constraint constraints.txt \
      ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} --requirement requirements.txt
COPY . .
RUN tools/bin/hatchling build --target wheel --directory dist

FROM python
ARG GPU=no
RUN if [ "${GPU}" = yes ]; then apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
      $(test -x /usr/local/bin/python3.11 || echo libpython3.11-dev) \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log; fi
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin memamba \
    && install --directory --owner 10001 --group 10001 --mode 700 /federation
COPY --from=build /opt/memamba /opt/memamba
ENV PATH=/opt/memamba/bin:${PATH} HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 \
    NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib MEMAMBA_SERVER_DIR=/federation \
    GOMP_SPINCOUNT=2000 THP_MEM_ALLOC_ENABLE=1 \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
COPY --from=build /build/dist /opt/memamba/dist
# Compile the scan for the processor that builds; on another kind of processor the first start takes seconds longer.
RUN --mount=type=bind,from=build,source=/build/tools,target=/build/tools \
    /build/tools/bin/pip --python /opt/memamba/bin/python install --no-cache-dir --no-deps /opt/memamba/dist/*.whl \
    && NUMBA_CACHE_DIR=/opt/memamba/numba python -c 'import memamba_core.model.scan.cpu.kernels' \
    && rm -rf /tmp/*
COPY --chmod=755 deploy/image/entrypoint.sh /opt/memamba/bin/entrypoint

ARG BASE_IMAGE
ARG VERSION=0.3.0
LABEL org.opencontainers.image.title="memamba-federated" \
      org.opencontainers.image.description="Federated ME-Mamba: coordinator and site client" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["entrypoint"]
CMD ["flower-client", "--help"]
