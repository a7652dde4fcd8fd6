# One image for every part of ARx: mint, gateway, relay, ship, witness; the command says which.
#
#   make image              # builds and tries it on a Debian machine, without a registry: deploy/image.py
#   make image ARGS=--wheels && docker build .
#
# Nothing is compiled, and no index is asked: build/image/wheels has each package, as uv.lock locks it.
ARG BASE=python:3.13-slim@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285

# hadolint ignore=DL3006
FROM ${BASE} AS build
COPY build/image/wheels /wheels
# The same bytes each time: constant sets are written in the order of their hashes, and no import writes a module's code.
ENV PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
# pip runs from its wheel: a base need not have it.  Python loads the compiled modules without a look at their sources,
# which no process of the image can change.
RUN python3 -m venv --without-pip /opt/arx \
    && set -- /wheels/pip-*.whl \
    && PYTHONPATH="$1" /opt/arx/bin/python3 -m pip install --no-cache-dir --no-compile --no-index --find-links /wheels \
        'arx-caps[mint,gateway,grpc,embedded,postgres]' \
    && /opt/arx/bin/python3 -c 'from arx_verifier._native import about_build as a; assert a() == "compiled", a()' \
    && /opt/arx/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/arx/lib

# hadolint ignore=DL3006
FROM ${BASE}
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="ARx" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/opt/arx/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    HOME=/data \
    ARX_HOME=/data/realm
# The user has a name for programs that ask for one.  No program gives the rights of another user; /data is private.
RUN PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash "$(python3 -c 'import os; print(os.path.dirname(os.__file__))')" \
    && echo 'arx:x:10001:10001::/data:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'arx:x:10001:' >> /etc/group \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/arx /opt/arx
USER 10001:10001
WORKDIR /data
VOLUME /data
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["arx", "health"]
CMD ["arx", "--help"]
