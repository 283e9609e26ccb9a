# The image: payops, the few files of the C library that it is linked to, and the certificates of the public
# authorities. No shell, no package manager, no other user than its own. For amd64 and arm64:
#
#   docker build --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" --tag payops .
#
# The same commit and the same base give the same image; `cargo test --test image` builds it twice and compares.

# Any Debian with this Rust, a C compiler and ca-certificates. Pin it by its digest where you build for production.
ARG RUST=docker.io/library/rust:1.95-bookworm

FROM ${RUST} AS tools
RUN cargo install --locked --debug --root /tools cargo-auditable@0.7.7 cargo-cyclonedx@0.5.9

FROM ${RUST} AS build
COPY --from=tools /tools/bin/ /usr/local/bin/
WORKDIR /payops
COPY . .
ARG PROFILE=release
ARG SOURCE_DATE_EPOCH=0
# What is copied may be older than what an earlier build left behind, and has to be compiled all the same.
RUN --mount=type=cache,target=/payops/target \
    find src build.rs -type f -exec touch {} + && \
    cargo auditable build --profile $PROFILE --locked --bin payops && \
    cargo cyclonedx --format json --spec-version 1.5 --all --no-build-deps --override-filename sbom && \
    install -D target/$PROFILE/payops /image/usr/bin/payops
# The libraries that the program names, each with the entry of its package, by which scanners know it.
RUN set -eu; mkdir -p /image/var/lib/dpkg/status.d; \
    ldd /image/usr/bin/payops | grep -o '/[^ ]*' | while read -r library; do \
        install -D "$library" "/image$library"; \
        package=$(dpkg -S "*/$(basename "$(readlink -f "$library")")" | head -n 1 | cut -d: -f1); \
        dpkg -s "$package" >"/image/var/lib/dpkg/status.d/$package"; \
    done; \
    dpkg -s ca-certificates >/image/var/lib/dpkg/status.d/ca-certificates; \
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt; \
    echo 'payops:x:10001:10001::/nonexistent:/nonexistent' >/image/etc/passwd; \
    echo 'payops:x:10001:' >/image/etc/group; \
    echo 'hosts: files dns' >/image/etc/nsswitch.conf; \
    install -D -m 644 sbom.json /image/usr/share/doc/payops/sbom.cdx.json; \
    install -D -m 644 LICENSE /image/usr/share/doc/payops/LICENSE; \
    find /image -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM scratch
COPY --from=build /image/ /
USER 10001:10001
# The boundary, the webhooks, the health of the pod, the metrics.
EXPOSE 50051 50053 50054 9464
ENTRYPOINT ["/usr/bin/payops"]
