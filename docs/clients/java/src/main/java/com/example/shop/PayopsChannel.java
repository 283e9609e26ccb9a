package com.example.shop;

import com.google.auth.oauth2.AccessToken;
import com.google.auth.oauth2.GoogleCredentials;
import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.CallCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.grpc.auth.MoreCallCredentials;
import io.grpc.stub.MetadataUtils;
import io.opentelemetry.api.OpenTelemetry;
import io.opentelemetry.instrumentation.grpc.v1_6.GrpcTelemetry;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** A channel to payops that does all that is due: TLS, keepalive, retries, the trace. */
final class PayopsChannel {
  private static final Metadata.Key<String> IDEMPOTENCY_KEY =
      Metadata.Key.of("idempotency-key", Metadata.ASCII_STRING_MARSHALLER);

  private PayopsChannel() {}

  static ManagedChannel open(OpenTelemetry telemetry) throws IOException {
    return builder(telemetry).build();
  }

  /** A channel that never repeats a call by itself. */
  static ManagedChannel openWithoutRetries(OpenTelemetry telemetry) throws IOException {
    return builder(telemetry).disableRetry().build();
  }

  private static ManagedChannelBuilder<?> builder(OpenTelemetry telemetry) throws IOException {
    var authority = TlsChannelCredentials.newBuilder().trustManager(new File(System.getenv("CA")));
    return Grpc.newChannelBuilder(System.getenv("BOUNDARY"), authority.build())
        .defaultServiceConfig(published())
        .enableRetry()
        .defaultLoadBalancingPolicy("round_robin")
        // Notices within a minute and a half that a connection is dead, also where nothing is called.
        .keepAliveTime(60, TimeUnit.SECONDS)
        .keepAliveTimeout(20, TimeUnit.SECONDS)
        .keepAliveWithoutCalls(true)
        // Each call has a span, and hands its place in the trace on to payops and the PSP.
        .intercept(GrpcTelemetry.create(telemetry).createClientInterceptor());
  }

  /** What a call may and may not repeat, as payops publishes it. */
  private static Map<String, ?> published() throws IOException {
    var file = PayopsChannel.class.getResourceAsStream("/payops/v1/service_config.json");
    try (var reader = new InputStreamReader(file, StandardCharsets.UTF_8)) {
      return new Gson().fromJson(reader, new TypeToken<Map<String, Object>>() {});
    }
  }

  /** The caller's token, from a variable; as these credentials it never leaves without TLS. */
  static CallCredentials token(String variable) {
    var token = new AccessToken(System.getenv(variable), null);
    return MoreCallCredentials.from(GoogleCredentials.create(token));
  }

  static ClientInterceptor idempotencyKey(String key) {
    var headers = new Metadata();
    headers.put(IDEMPOTENCY_KEY, key);
    return MetadataUtils.newAttachHeadersInterceptor(headers);
  }
}
