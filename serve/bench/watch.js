// Watches a page from inside, without the page knowing: installed before its own script runs.
window.seen = { events: [], times: [], clock: [] };

const Peer = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Peer {
  constructor(...given) {
    super(...given);
    window.seen.peer = this;
  }
  createDataChannel(...given) {
    const channel = (this.events = super.createDataChannel(...given));
    channel.addEventListener("message", ({ data }) => window.seen.events.push(JSON.parse(data)));
    return channel;
  }
};

window.addEventListener("DOMContentLoaded", () => {
  const video = document.getElementById("face");
  if (!video) return; // another page's: what it shows is inside of the widget
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

// The picture that is shown, as a JPEG of 256 px, and how loud the voice has been for the last 85 ms.
let analyser = null;
window.glance = () => {
  if (!analyser) {
    const audio = new AudioContext();
    analyser = Object.assign(audio.createAnalyser(), { fftSize: 4096 });
    audio.createMediaStreamSource(document.getElementById("voice").srcObject).connect(analyser);
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: 256, height: 256 });
  canvas.getContext("2d").drawImage(document.getElementById("face"), 0, 0, 256, 256);
  const samples = new Float32Array(analyser.fftSize);
  analyser.getFloatTimeDomainData(samples);
  return {
    picture: canvas.toDataURL("image/jpeg").split(",")[1],
    loudness: Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length),
  };
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

// Send this page a flash and a beep that it makes at one moment: what `detect` then finds is its own bias, give or take
// the 10 ms in which WebRTC takes sound.
window.loop = async () => {
  document.getElementById("stage").hidden = false; // what is not shown is not drawn either
  const canvas = document.createElement("canvas"), side = 128;
  canvas.width = canvas.height = side;
  const paint = canvas.getContext("2d");
  const picture = canvas.captureStream(0).getVideoTracks()[0];
  let until = 0; // white
  const show = () => {
    paint.fillStyle = performance.now() < until ? "white" : "black";
    paint.fillRect(0, 0, side, side);
    picture.requestFrame();
  };
  setInterval(show, 1000 / 24);

  const audio = new AudioContext({ sampleRate: 48000 });
  const beeper = `registerProcessor("beeper", class extends AudioWorkletProcessor {
    process(heard, [[channel]]) {
      for (let i = 0; i < channel.length; i++) {
        const at = (currentFrame + i) % 50000; // a second and one frame, of which a frame is loud
        if (at === 0) this.port.postMessage(0);
        channel[i] = at < 2000 ? 0.5 * Math.cos(2 * Math.PI * 1000 * at / sampleRate) : 0;
      }
      return true;
    }
  });`;
  await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([beeper], { type: "text/javascript" })));
  const worklet = new AudioWorkletNode(audio, "beeper", { outputChannelCount: [1] });
  worklet.port.onmessage = () => {
    until = performance.now() + 40;
    show();
  };
  const sound = audio.createMediaStreamDestination();
  worklet.connect(sound);

  const here = new Peer(), there = new Peer(), stream = new MediaStream([picture, ...sound.stream.getAudioTracks()]);
  here.onicecandidate = ({ candidate }) => there.addIceCandidate(candidate);
  there.onicecandidate = ({ candidate }) => here.addIceCandidate(candidate);
  there.ontrack = ({ track }) => {
    document.getElementById(track.kind === "video" ? "face" : "voice").srcObject = new MediaStream([track]);
  };
  for (const track of stream.getTracks()) here.addTrack(track, stream);
  await here.setLocalDescription();
  await there.setRemoteDescription(here.localDescription);
  await there.setLocalDescription();
  await here.setRemoteDescription(there.localDescription);
};
