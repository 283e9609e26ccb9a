"""A channel to payops that does all that is due: TLS, keepalive, retries, deadlines, the caller's token, the trace."""

import json
import os
import pathlib

import grpc
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient

# What a call may and may not repeat, as payops publishes it.
PUBLISHED = pathlib.Path(__file__).parents[3] / "proto/payops/v1/service_config.json"

# From here on each call has a span, and hands its place in the trace on to payops and the PSP.
GrpcInstrumentorClient().instrument()


def channel(*, retries: bool = True) -> grpc.Channel:
    config = {**json.loads(PUBLISHED.read_text()), "loadBalancingConfig": [{"round_robin": {}}]}
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", int(retries)),
        # Notices within a minute and a half that a connection is dead, also where nothing is called.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    authority = pathlib.Path(os.environ["CA"]).read_bytes()
    return grpc.secure_channel(os.environ["BOUNDARY"], grpc.ssl_channel_credentials(authority), options)


def token(name: str = "TOKEN") -> grpc.CallCredentials:
    """The caller's token; as call credentials it never leaves without TLS."""
    return grpc.access_token_call_credentials(os.environ[name])
