// A page with @runwayml/avatars: `start` a session, and look at `seen`.
import { AvatarEvent, streamTo } from "@runwayml/avatars";

const seen = (window.seen = { states: [], cards: [], lines: [], speech: [], loudest: 0 });

window.start = async (credentials) => {
  const video = document.querySelector("video");
  const session = (window.session = await streamTo({ credentials, target: video, audio: true, video: true }));
  session.on(AvatarEvent.StateChanged, (state) => seen.states.push(state));
  session.on(AvatarEvent.Transcript, (line) => line.final && seen.lines.push([line.participantIdentity, line.text]));
  session.on(AvatarEvent.AvatarSpeechStarted, () => seen.speech.push("started"));
  session.on(AvatarEvent.AvatarSpeechEnded, () => seen.speech.push("ended"));
  session.onClientEvent("show_card", (args) => seen.cards.push(args));
  listen(session);
};

window.end = () => window.session.end();

function listen(session) {
  const element = document.createElement("audio");
  session.attachAudio(element);
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(element.srcObject).connect(analyser);
  const wave = new Float32Array(analyser.fftSize);
  setInterval(() => {
    analyser.getFloatTimeDomainData(wave);
    seen.loudest = Math.max(seen.loudest, ...wave.map(Math.abs));
  }, 20);
}
