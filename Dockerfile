# mlp-mixer serve in a container: docker build -t mlp-mixer . && docker run --rm -p 8000:8000 mlp-mixer
# Weights: mount a folder (-v $PWD/runs/mine:/weights:ro) and name it: docker run ... mlp-mixer /weights
FROM python:3.12-slim

# torch for the CPU alone is a tenth of the size; which index has it is yours to say:
#   docker build --build-arg PIP_ARGS="--index-url https://..." ...
ARG PIP_ARGS=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt ${PIP_ARGS} '.[serve,onnx]' \
    && useradd --create-home mixer
USER mixer
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
ENTRYPOINT ["mlp-mixer", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/weights"]
