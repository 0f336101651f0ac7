// Reports the usage of one request with Node.js 18 or newer. Needs TALLYSTICK_URL, TALLYSTICK_API_KEY and SUBSCRIPTION.
import { randomUUID } from "node:crypto";

const { TALLYSTICK_URL, TALLYSTICK_API_KEY, SUBSCRIPTION } = process.env;
const event = {
  specversion: "1.0", type: "tallystick.usage.v1", source: "/gateways/node",
  id: randomUUID(), // of the request: sent twice, it counts once
  time: new Date().toISOString(), subject: SUBSCRIPTION,
  data: { model: "gpt-4o-mini", provider: "openai", request_tokens: 812, response_tokens: 164, latency_ms: 1240 },
};
const answer = await fetch(`${TALLYSTICK_URL}/api/v1/events`, {
  method: "POST",
  headers: { Authorization: `Bearer ${TALLYSTICK_API_KEY}`, "Content-Type": "application/cloudevents-batch+json" },
  body: JSON.stringify([event]),
});
const said = await answer.text();
console.log(answer.status, said); // 503: send the same event again, after Retry-After
process.exit(answer.ok && JSON.parse(said).results[0].status !== "rejected" ? 0 : 1);
