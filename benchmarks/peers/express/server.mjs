// What LiveKit's documentation shows for a token endpoint and a webhook receiver. No authentication, nothing stored.
import express from "express";
import { AccessToken, WebhookReceiver } from "livekit-server-sdk";

const { PORT, LIVEKIT_API_KEY, LIVEKIT_API_SECRET, LIVEKIT_URL } = process.env;
const app = express();
const receiver = new WebhookReceiver(LIVEKIT_API_KEY, LIVEKIT_API_SECRET);

app.post("/token", express.json(), async (request, response) => {
  const { room, identity, ttl } = request.body;
  const token = new AccessToken(LIVEKIT_API_KEY, LIVEKIT_API_SECRET, { identity, ttl });
  token.addGrant({ roomJoin: true, room, canPublish: true, canSubscribe: true, canPublishData: true });
  response.json({ token: await token.toJwt(), url: LIVEKIT_URL, room });
});

app.post("/webhook", express.raw({ type: "application/webhook+json", limit: "1mb" }), async (request, response) => {
  try {
    await receiver.receive(request.body.toString("utf8"), request.get("Authorization"));
    response.json({ received: true });
  } catch {
    response.status(401).end();
  }
});

app.listen(Number(PORT), "127.0.0.1");
