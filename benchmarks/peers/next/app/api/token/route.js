// What LiveKit's documentation shows for Next.js. No authentication.
import { AccessToken } from "livekit-server-sdk";

export const revalidate = 0;

export async function POST(request) {
  const { room, identity, ttl } = await request.json();
  const token = new AccessToken(process.env.LIVEKIT_API_KEY, process.env.LIVEKIT_API_SECRET, { identity, ttl });
  token.addGrant({ roomJoin: true, room, canPublish: true, canSubscribe: true, canPublishData: true });
  return Response.json({ token: await token.toJwt(), url: process.env.LIVEKIT_URL, room });
}
