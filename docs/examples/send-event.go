// Reports the usage of one request with Go. Needs TALLYSTICK_URL, TALLYSTICK_API_KEY and SUBSCRIPTION.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	body, _ := json.Marshal([]map[string]any{{
		"specversion": "1.0", "type": "tallystick.usage.v1", "source": "/gateways/go",
		"id":   rand.Text(), // of the request: sent twice, it counts once
		"time": time.Now().UTC().Format(time.RFC3339Nano), "subject": os.Getenv("SUBSCRIPTION"),
		"data": map[string]any{"model": "gpt-4o-mini", "provider": "openai", "request_tokens": 812, "response_tokens": 164, "latency_ms": 1240},
	}})
	request, _ := http.NewRequest("POST", os.Getenv("TALLYSTICK_URL")+"/api/v1/events", bytes.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+os.Getenv("TALLYSTICK_API_KEY"))
	request.Header.Set("Content-Type", "application/cloudevents-batch+json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		panic(err)
	}
	said, _ := io.ReadAll(answer.Body)
	fmt.Println(answer.StatusCode, string(said)) // 503: send the same event again, after Retry-After
	if answer.StatusCode != 200 {
		os.Exit(1)
	}
}
