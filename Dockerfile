# The image of the DaemonSet in deploy/.
#
#   docker build --build-arg VERSION=v0.1.0 -t REGISTRY/kube-proxy:v0.1.0 .
#
# Needs BuildKit, which docker and buildah have. The result holds one static
# binary, both flavours of iptables with their libraries, and modprobe; no shell.
# The program speaks netlink for conntrack, IPVS and ipsets, so their tools are not
# in it.
ARG DEBIAN=bookworm

FROM --platform=$BUILDPLATFORM golang:1.26-${DEBIAN} AS build
WORKDIR /src
COPY . .
ARG VERSION=unknown
ARG TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-X main.version=$VERSION" -o /kube-proxy ./cmd/kube-proxy

FROM debian:${DEBIAN}-slim AS programs
RUN apt-get update \
 && apt-get install -y --no-install-recommends iptables kmod \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/image/collect.sh /collect.sh
RUN sh /collect.sh /image

FROM scratch
COPY --from=programs /image /
# Where kubeadm's DaemonSet looks for it.
COPY --from=build /kube-proxy /usr/local/bin/kube-proxy
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# root, and of root's capabilities those that the pod is given: docs/privileges.md.
USER 0:0
ENTRYPOINT ["/usr/local/bin/kube-proxy"]
