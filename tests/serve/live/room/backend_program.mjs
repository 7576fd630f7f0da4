// A program with @runwayml/avatars-node-rpc that answers calls of `lamp`; prints JSON when the session is over.
// Arguments: JSON of apiKey, sessionId, baseUrl.
import { createRpcHandler } from "@runwayml/avatars-node-rpc";

const calls = [];

await createRpcHandler({
  ...JSON.parse(process.argv[2]),
  tools: {
    lamp: async (args) => {
      calls.push(args);
      if (args.room === "attic") throw new Error("No lamp there.");
      return { on: true };
    },
  },
  onConnected: () => console.log("connected"),
  onDisconnected: () => {
    console.log(JSON.stringify({ calls }));
    process.exit(0);
  },
});
