# A worker of the pool: `omniopd worker` in a clone of the project (docs/machines.md). Build it from
# the commit that the head runs: a worker with other code is refused.
#
#   docker build -t omniopd-worker .
#   docker run --network host -v CLONE:/home/worker/project \
#       -v ~/.ray/auth_token:/home/worker/.ray/auth_token:ro \
#       -e JUDGMENTS_URL -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY \
#       omniopd-worker --join 10.0.0.1:6379 --ip 10.0.0.2 --serves api,cpu
#
# CLONE belongs to uid 1000. torch is the package index's, which has CUDA (run with --gpus all);
# --build-arg TORCH_INDEX=URL takes another build of the same version, as one for a CPU. Problems of
# kind code want user namespaces for their sandbox, which Docker's default profile forbids.
FROM python:3.11-slim

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# of the base image's release, which has one version
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 worker

WORKDIR /opt/omniopd
COPY constraints.txt ./
RUN python -m pip install -c constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY . .
RUN python -m pip install -c constraints.txt '.[ray,s3,postgres,openai,anthropic,google]'

USER 1000
WORKDIR /home/worker/project
ENTRYPOINT ["omniopd", "worker"]
