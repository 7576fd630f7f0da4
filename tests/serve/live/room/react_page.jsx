// A page with @runwayml/avatars-react: `start` a call, and look at `seen`.
import { AvatarCall, AvatarVideo, ControlBar, useAvatarStatus, useClientEvent, useTranscription } from "@runwayml/avatars-react";
import { createRoot } from "react-dom/client";

const seen = (window.seen = { states: [], cards: [], lines: [], errors: [] });

function Watch() {
  const status = useAvatarStatus().status;
  if (seen.states.at(-1) !== status) seen.states.push(status);
  useClientEvent("show_card", (args) => seen.cards.push(args));
  useTranscription((line) => line.final && seen.lines.push([line.participantIdentity, line.text]));
  return null;
}

window.start = ({ sessionId, sessionKey, baseUrl }) => {
  createRoot(document.getElementById("call")).render(
    <AvatarCall
      avatarId="noa"
      sessionId={sessionId}
      sessionKey={sessionKey}
      baseUrl={baseUrl}
      onEnd={() => seen.states.push("over")}
      onError={(error) => seen.errors.push(String(error))}
    >
      <AvatarVideo />
      <ControlBar />
      <Watch />
    </AvatarCall>,
  );
};

window.end = () => document.querySelector("[data-avatar-control=end-call]").click();
