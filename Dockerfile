# trialrun's command line and MLflow, for the worker and the server of compose.yaml.
#
#   docker build --tag trialrun .                                      torch for CPUs
#   docker build --tag trialrun:cuda --build-arg TORCH_BACKEND=cu130 . torch for NVIDIA GPUs
#
# requirements.lock has all versions. The first stage has what only the installation needs.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
ARG TORCH_BACKEND=cpu
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir "uv==${UV_VERSION}" && uv venv /opt/trialrun
WORKDIR /build
# The layer of the dependencies is kept until their versions change.
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --python /opt/trialrun/bin/python --torch-backend "${TORCH_BACKEND}" \
    --constraints requirements.lock --requirement pyproject.toml --extra serve
COPY LICENSE README.md ./
COPY src src
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --python /opt/trialrun/bin/python --no-deps \
    --build-constraints requirements.lock .

FROM ${PYTHON_IMAGE}
RUN useradd --create-home --uid 1000 trialrun \
    && mkdir /artifacts /cache /state /work \
    && chown trialrun:trialrun /artifacts /cache /state /work
COPY docker/entrypoint.sh /usr/local/bin/entrypoint
COPY --from=build /opt/trialrun /opt/trialrun
# GitPython warns if there is no git, and the records then have no commit.
ENV PATH=/opt/trialrun/bin:$PATH \
    GIT_PYTHON_REFRESH=quiet \
    PYTHONUNBUFFERED=1 \
    TRIALRUN_CACHE=/cache \
    XDG_STATE_HOME=/state
USER 1000
WORKDIR /work
ENTRYPOINT ["entrypoint"]
CMD ["trialrun", "--help"]
