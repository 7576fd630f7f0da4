// Watches a page from inside, without the page knowing: installed before its own script runs.
window.seen = { events: [], times: [], clock: [] };

const Peer = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Peer {
  constructor(...given) {
    super(...given);
    window.seen.peer = this;
  }
  createDataChannel(...given) {
    const channel = super.createDataChannel(...given);
    channel.addEventListener("message", ({ data }) => window.seen.events.push(JSON.parse(data)));
    return channel;
  }
};

window.addEventListener("DOMContentLoaded", () => {
  const video = document.getElementById("face");
  const watch = (now, frame) => {
    window.seen.times.push(frame.presentationTime);
    window.seen.clock.push(frame.rtpTimestamp);
    video.requestVideoFrameCallback(watch);
  };
  video.requestVideoFrameCallback(watch);
});

window.forget = () => Object.assign(window.seen, { events: [], times: [], clock: [] });

window.stats = async () => {
  const found = {};
  for (const report of (await window.seen.peer.getStats()).values())
    if (report.type === "inbound-rtp")
      found[report.kind] = {
        playout: report.estimatedPlayoutTimestamp,
        lost: report.packetsLost,
        freezes: report.freezeCount,
        frozen_s: report.totalFreezesDuration,
        concealed: report.concealedSamples,
      };
  return found;
};

// Milliseconds of the page's clock at which a white picture is shown, and at which a beep leaves the loudspeaker.
window.detect = async () => {
  const found = (window.seen.detected = { flashes: [], beeps: [] });
  const video = document.getElementById("face"), canvas = document.createElement("canvas");
  canvas.width = canvas.height = 8;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let bright = false;
  const look = (now, frame) => {
    context.drawImage(video, 0, 0, 8, 8);
    const pixels = context.getImageData(0, 0, 8, 8).data;
    const level = pixels.reduce((sum, value) => sum + value, 0) / pixels.length - 64; // without the opaque fourth
    if (level > 96 && !bright) found.flashes.push(frame.expectedDisplayTime);
    bright = level > 96;
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);

  const audio = new AudioContext();
  const onset = `registerProcessor("onset", class extends AudioWorkletProcessor {
    quiet = 0;
    process([[channel]]) {
      for (let i = 0; i < (channel?.length ?? 0); i++) {
        const loud = Math.abs(channel[i]) > 0.1;
        if (loud && this.quiet > sampleRate / 4) this.port.postMessage((currentFrame + i) / sampleRate);
        this.quiet = loud ? 0 : this.quiet + 1;
      }
      return true;
    }
  });`;
  await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([onset], { type: "text/javascript" })));
  const worklet = new AudioWorkletNode(audio, "onset");
  worklet.port.onmessage = ({ data: second }) => {
    const { contextTime, performanceTime } = audio.getOutputTimestamp();
    found.beeps.push(performanceTime + 1000 * (second - contextTime));
  };
  audio.createMediaStreamSource(document.getElementById("voice").srcObject).connect(worklet).connect(audio.destination);
};
