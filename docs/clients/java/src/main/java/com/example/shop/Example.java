package com.example.shop;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.payops.v1.CaptureRequest;
import com.payops.v1.Operation;
import com.payops.v1.OperationState;
import com.payops.v1.PaymentOperationsServiceGrpc;
import com.payops.v1.WatchOperationRequest;
import io.grpc.Channel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.propagation.ContextPropagators;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import java.io.IOException;
import java.time.Duration;
import java.util.UUID;

/** Captures one payment: Example TRANSACTION AMOUNT. */
final class Example {
  private Example() {}

  public static void main(String[] args) throws IOException {
    var telemetry =
        OpenTelemetrySdk.builder()
            .setTracerProvider(SdkTracerProvider.builder().build())
            .setPropagators(ContextPropagators.create(W3CTraceContextPropagator.getInstance()))
            .build();
    var channel = PayopsChannel.open(telemetry);
    var span = telemetry.getTracer("shop").spanBuilder("ship an order").startSpan();
    var exitCode = 0;
    try (var ignored = span.makeCurrent()) {
      System.out.println("trace " + span.getSpanContext().getTraceId());
      var operation = capture(channel, args[0], Long.parseLong(args[1]));
      System.out.printf("capture of %d: %s%n", operation.getAmount(), name(operation.getState()));
      if (operation.getState() != OperationState.OPERATION_STATE_SUCCEEDED) {
        throw new NotCaptured("nothing was captured");
      }
    } catch (NotCaptured e) {
      System.err.println(e.getMessage());
      exitCode = 1;
    } finally {
      span.end();
      channel.shutdown();
    }
    System.exit(exitCode);
  }

  private static Operation capture(Channel channel, String transaction, long amount)
      throws NotCaptured {
    // Made once for this intention, and kept with it (in your database, before the call): every
    // retry repeats it.
    var key = UUID.randomUUID().toString();
    var payops =
        PaymentOperationsServiceGrpc.newBlockingStub(channel)
            .withCallCredentials(PayopsChannel.token("TOKEN"))
            .withWaitForReady();
    var request =
        CaptureRequest.newBuilder().setTransactionId(transaction).setAmount(amount).build();
    Operation operation;
    try {
      operation =
          payops
              .withInterceptors(PayopsChannel.idempotencyKey(key))
              .withDeadlineAfter(Duration.ofSeconds(30))
              .capture(request)
              .getOperation();
    } catch (StatusRuntimeException e) {
      var code = e.getStatus().getCode();
      var info = reason(e);
      if (info.getMetadataOrDefault("safe_to_use_new_key", "").equals("true")) {
        var description = e.getStatus().getDescription();
        throw new NotCaptured(
            "not captured: %s %s: %s".formatted(code, info.getReason(), description));
      }
      // The money may have moved. Never a new key: ask again under this one, now or tomorrow.
      throw new NotCaptured(
          "not known yet, repeat with key %s: %s %s".formatted(key, code, info.getReason()));
    }
    if (operation.getState() == OperationState.OPERATION_STATE_PENDING) {
      // Accepted, and done later: follow it to its end.
      var watched = WatchOperationRequest.newBuilder().setIdempotencyKey(key).build();
      var changes = payops.watchOperation(watched);
      while (changes.hasNext()) {
        operation = changes.next().getOperation();
      }
    }
    return operation;
  }

  /** What the boundary says beside the code: its reason, and whether another key is safe. */
  static ErrorInfo reason(StatusRuntimeException error) {
    try {
      for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          return detail.unpack(ErrorInfo.class);
        }
      }
    } catch (InvalidProtocolBufferException e) {
      // As if there were none: then no other key is safe.
    }
    return ErrorInfo.getDefaultInstance();
  }

  static String name(OperationState state) {
    return state.name().replace("OPERATION_STATE_", "");
  }

  private static final class NotCaptured extends Exception {
    NotCaptured(String message) {
      super(message);
    }
  }
}
