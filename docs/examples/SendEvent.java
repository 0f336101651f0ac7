// Reports the usage of one request with Java 17 or newer. Needs TALLYSTICK_URL, TALLYSTICK_API_KEY and SUBSCRIPTION.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Instant;
import java.util.UUID;

class SendEvent {
    public static void main(String[] arguments) throws Exception {
        var event = """
            [{"specversion": "1.0", "type": "tallystick.usage.v1", "source": "/gateways/java",
              "id": "%s", "time": "%s", "subject": "%s",
              "data": {"model": "gpt-4o-mini", "provider": "openai", "request_tokens": 812, "response_tokens": 164, "latency_ms": 1240}}]
            """.formatted(UUID.randomUUID(), Instant.now(), System.getenv("SUBSCRIPTION")); // the id is the request's: sent twice, it counts once
        var request = HttpRequest.newBuilder(URI.create(System.getenv("TALLYSTICK_URL") + "/api/v1/events"))
            .header("Authorization", "Bearer " + System.getenv("TALLYSTICK_API_KEY"))
            .header("Content-Type", "application/cloudevents-batch+json")
            .POST(HttpRequest.BodyPublishers.ofString(event)).build();
        var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build(); // not the default, which offers HTTP/2 by an upgrade
        var answer = client.send(request, BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body()); // 503: send the same event again, after Retry-After
        System.exit(answer.statusCode() == 200 ? 0 : 1);
    }
}
