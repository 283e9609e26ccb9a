package com.example.shop;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.payops.v1.CaptureRequest;
import com.payops.v1.GetOperationRequest;
import com.payops.v1.Operation;
import com.payops.v1.PaymentOperationsServiceGrpc;
import com.payops.v1.PaymentOperationsServiceGrpc.PaymentOperationsServiceBlockingStub;
import com.payops.v1.RefundRequest;
import com.payops.v1.VoidRequest;
import com.payops.v1.WatchOperationRequest;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import io.opentelemetry.api.OpenTelemetry;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;

/** Takes the steps of docs/clients/scenario.txt: Scenario SCENARIO_FILE PREFIX. */
final class Scenario {
  private static final Metadata.Key<String> REPLAYED =
      Metadata.Key.of("idempotency-replayed", Metadata.ASCII_STRING_MARSHALLER);

  private final HttpClient http = HttpClient.newHttpClient();
  private final Map<String, String> transactions = new HashMap<>();
  private final PaymentOperationsServiceBlockingStub retrying;
  private final PaymentOperationsServiceBlockingStub askingOnce;
  private final String prefix;

  private Scenario(
      PaymentOperationsServiceBlockingStub retrying,
      PaymentOperationsServiceBlockingStub askingOnce,
      String prefix) {
    this.retrying = retrying;
    this.askingOnce = askingOnce;
    this.prefix = prefix;
  }

  public static void main(String[] args) throws IOException, InterruptedException {
    var retrying = PayopsChannel.open(OpenTelemetry.noop());
    var askingOnce = PayopsChannel.openWithoutRetries(OpenTelemetry.noop());
    var scenario =
        new Scenario(
            PaymentOperationsServiceGrpc.newBlockingStub(retrying),
            PaymentOperationsServiceGrpc.newBlockingStub(askingOnce),
            args[1]);
    var wrong = false;
    for (var line : Files.readAllLines(Path.of(args[0]))) {
      if (line.isEmpty() || line.startsWith("#")) {
        continue;
      }
      var step = line.split(" -> ")[0];
      var result = scenario.take(step);
      var told = result.isEmpty() ? step : step + " -> " + result;
      System.out.println(told);
      wrong |= !told.equals(line);
    }
    retrying.shutdown();
    askingOnce.shutdown();
    System.exit(wrong ? 1 : 0);
  }

  /** Takes a step; what came of it, or nothing where there is nothing to tell. */
  private String take(String step) throws IOException, InterruptedException {
    var words = step.split(" ", 2);
    switch (words[0]) {
      case "transaction" -> {
        var named = words[1].split(" ", 2);
        transactions.put(named[0], sandbox("transactions", named[1]).get("id").getAsString());
      }
      case "fault" -> {
        var body = words[1];
        for (var named : transactions.entrySet()) {
          body = body.replace("\"@" + named.getKey() + "\"", "\"" + named.getValue() + "\"");
        }
        sandbox("faults", body);
      }
      case "drain" -> drain();
      default -> {
        return call(Call.of(words[0], words[1].split(" ")));
      }
    }
    return "";
  }

  private String call(Call call) {
    var key = prefix + "-" + call.arguments.get(0);
    var token = call.options.getOrDefault("by", "").equals("reader") ? "READER_TOKEN" : "TOKEN";
    var within = Duration.ofMillis(Long.parseLong(call.options.getOrDefault("within", "30000")));
    var headers = new AtomicReference<Metadata>();
    var payops =
        (call.options.containsKey("once") ? askingOnce : retrying)
            .withCallCredentials(PayopsChannel.token(token))
            .withDeadlineAfter(within)
            .withWaitForReady()
            .withInterceptors(
                MetadataUtils.newCaptureMetadataInterceptor(headers, new AtomicReference<>()));
    try {
      var state = Example.name(ask(payops, call, key).getState());
      return "true".equals(headers.get().get(REPLAYED)) ? state + " replayed" : state;
    } catch (StatusRuntimeException e) {
      return told(e);
    }
  }

  private Operation ask(PaymentOperationsServiceBlockingStub payops, Call call, String key) {
    var moving = payops.withInterceptors(PayopsChannel.idempotencyKey(key));
    return switch (call.verb) {
      case "capture" -> {
        var request =
            CaptureRequest.newBuilder()
                .setTransactionId(transactions.get(call.arguments.get(1)))
                .setAmount(call.amount())
                .setAsync(call.async());
        yield moving.capture(request.build()).getOperation();
      }
      case "void" -> {
        var request =
            VoidRequest.newBuilder()
                .setTransactionId(transactions.get(call.arguments.get(1)))
                .setAsync(call.async());
        yield moving.void_(request.build()).getOperation();
      }
      case "refund" -> {
        var request =
            RefundRequest.newBuilder()
                .setTransactionId(transactions.get(call.arguments.get(1)))
                .setAmount(call.amount())
                .setAsync(call.async());
        yield moving.refund(request.build()).getOperation();
      }
      case "get" -> {
        var request = GetOperationRequest.newBuilder().setIdempotencyKey(key);
        yield payops.getOperation(request.build()).getOperation();
      }
      case "watch" -> {
        var request = WatchOperationRequest.newBuilder().setIdempotencyKey(key);
        var changes = payops.watchOperation(request.build());
        var operation = Operation.getDefaultInstance();
        while (changes.hasNext()) {
          operation = changes.next().getOperation();
        }
        yield operation;
      }
      default -> throw new IllegalArgumentException("no such step: " + call.verb);
    };
  }

  private static String told(StatusRuntimeException error) {
    var code = error.getStatus().getCode();
    var info = Example.reason(error);
    if (code == Status.Code.DEADLINE_EXCEEDED || info.getReason().equals("OPERATION_IN_PROGRESS")) {
      return "TOO_LATE";
    }
    var newKey = info.getMetadataMap().get("safe_to_use_new_key");
    return code + " " + info.getReason() + (newKey == null ? "" : " new_key=" + newKey);
  }

  private JsonObject sandbox(String what, String body) throws IOException, InterruptedException {
    var url = URI.create(System.getenv("SANDBOX") + "/sandbox/v1/" + what);
    var request = HttpRequest.newBuilder(url).POST(HttpRequest.BodyPublishers.ofString(body));
    var answer = http.send(request.build(), BodyHandlers.ofString());
    if (answer.statusCode() >= 300) {
      throw new IOException(url + ": " + answer.statusCode() + " " + answer.body());
    }
    return JsonParser.parseString(answer.body()).getAsJsonObject();
  }

  private static void drain() throws IOException, InterruptedException {
    var drain = new ProcessBuilder("sh", "-c", System.getenv("DRAIN"));
    // Standard output is the scenario's alone.
    drain.redirectOutput(ProcessBuilder.Redirect.DISCARD);
    if (drain.redirectError(ProcessBuilder.Redirect.INHERIT).start().waitFor() != 0) {
      throw new IOException("cannot drain");
    }
  }

  /** What a step calls: its key, and the payment and the amount where there are any; then how. */
  private record Call(String verb, List<String> arguments, Map<String, String> options) {
    static Call of(String verb, String[] words) {
      var call = new Call(verb, new ArrayList<>(), new HashMap<>());
      for (var word : words) {
        var option = word.split("=", 2);
        if (option.length == 2 || word.equals("once") || word.equals("async")) {
          call.options.put(option[0], option[option.length - 1]);
        } else {
          call.arguments.add(word);
        }
      }
      return call;
    }

    long amount() {
      return Long.parseLong(arguments.get(2));
    }

    boolean async() {
      return options.containsKey("async");
    }
  }
}
