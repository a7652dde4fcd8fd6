# One image for every part of ARx; the command says which.
FROM python:3.13-slim
COPY pyproject.toml checkout_build.py README.md CHANGELOG.md LICENSE /arx/
COPY arx_caps /arx/arx_caps
COPY verifier /arx/verifier
RUN pip install --no-cache-dir '/arx[mint,postgres]' && useradd --create-home --uid 1000 arx && mkdir /data && chown arx /data
USER arx
VOLUME /data
