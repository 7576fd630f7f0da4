// Firefox at our own page: talk, read, write, leave. Prints what it saw. Arguments: path of Firefox, address, hertz.
import puppeteer from "puppeteer-core";

const [executablePath, url, hertz] = process.argv.slice(2);
const extraPrefsFirefox = {
  "media.navigator.streams.fake": true, // a microphone that hums
  "media.navigator.audio.fake_frequency": Number(hertz),
  "media.navigator.permission.disabled": true,
  "media.autoplay.default": 0,
  "media.peerconnection.ice.loopback": true, // client and server are one machine
  "media.peerconnection.ice.obfuscate_host_addresses": false,
};
const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true, extraPrefsFirefox });
const wrong = [];
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => wrong.push(String(error)));
  await page.goto(`${url}/?plain`);
  await page.waitForSelector("#characters input:checked + .card");
  await page.click("#start");
  await page.evaluate(() => {
    const face = document.getElementById("face"), note = () => {
      window.frames_shown = (window.frames_shown ?? 0) + 1;
      face.requestVideoFrameCallback(note);
    };
    face.requestVideoFrameCallback(note);
  });
  const frames = () => page.evaluate(() => window.frames_shown ?? 0);
  const until = async (condition) => {
    for (let tries = 0; tries < 600; tries++) {
      if (await condition()) return;
      await new Promise((done) => setTimeout(done, 100));
    }
    throw new Error(`${condition}: ${await page.evaluate(() => document.body.innerText)} ${wrong}`);
  };
  await until(async () => (await frames()) > 48);
  const captions = () => page.evaluate(() => document.getElementById("captions").innerText);
  await until(async () => (await captions()).length > 5);
  const greeting = await captions();
  await page.focus("#words");
  await page.keyboard.type("Hello there.");
  await page.keyboard.press("Enter");
  await until(async () => (await captions()).includes("Hello there."));
  await new Promise((done) => setTimeout(done, 3000)); // of the microphone's sound
  const size = await page.evaluate(() => [document.getElementById("face").videoWidth, document.getElementById("face").videoHeight]);
  await page.click("#leave");
  await until(() => page.evaluate(() => !document.getElementById("choose").hidden));
  console.log(JSON.stringify({ greeting, size, wrong, version: await browser.version() }));
} finally {
  await browser.close();
}
