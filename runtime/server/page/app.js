"use strict";
// One conversation with the server that this page came from.

const $ = (id) => document.getElementById(id);
const EXAMPLES = ["Tell me a story", "Explain a hash table in two sentences", "In the beginning"];
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];

let messages = [];
let session = newSession();
let running = null; // AbortController of the answer in progress

// ---- settings -------------------------------------------------------------------------------

const settings = JSON.parse(localStorage.getItem("edgec.settings") || "{}");

function saveSettings() {
  for (const field of $("settings").querySelectorAll("[name]")) {
    if (field.validity.valid) settings[field.name] = field.value;
  }
  localStorage.setItem("edgec.settings", JSON.stringify(settings));
}

function showSettings() {
  for (const field of $("settings").querySelectorAll("[name]")) field.value = settings[field.name] || "";
  $("settings").showModal();
}

function requestOptions() {
  const options = {};
  for (const name of NUMBERS) {
    if (settings[name]) options[name] = Number(settings[name]);
  }
  if (settings.stop) options.stop = [settings.stop];
  return options;
}

function headers() {
  const all = { "Content-Type": "application/json" };
  if (settings.api_key) all.Authorization = `Bearer ${settings.api_key}`;
  return all;
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("edgec.theme", document.documentElement.dataset.theme);
}

// ---- conversation ---------------------------------------------------------------------------

function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return "page-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

function newConversation() {
  running?.abort();
  messages = [];
  session = newSession();
  for (const node of document.querySelectorAll(".message")) node.remove();
  $("welcome").hidden = false;
  setPhase(null);
  $("speed").textContent = "–";
  $("input").focus();
}

function addMessage(role) {
  $("welcome").hidden = true;
  const article = document.createElement("article");
  article.className = `message ${role}`;
  article.setAttribute("aria-label", role === "user" ? "You" : "Model");
  const text = document.createElement("div");
  text.className = "text";
  article.append(text);
  $("log").append(article);
  return article;
}

function setPhase(phase) {
  for (const item of $("phases").children) {
    const now = item.dataset.phase === phase;
    item.classList.toggle("now", now);
    if (now) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
}

function atBottom() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
}

function setRunning(controller) {
  running = controller;
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  updateSend();
}

function updateSend() {
  $("send").disabled = !$("input").value.trim();
}

async function ask(question) {
  messages.push({ role: "user", content: question });
  addMessage("user").firstChild.textContent = question;
  const article = addMessage("assistant");
  article.classList.add("running");
  $("log").scrollTop = $("log").scrollHeight;
  setRunning(new AbortController());
  setPhase(messages.length > 1 ? "follow-up" : "prefill");
  const answer = { text: "", started: performance.now(), first: 0, tokens: 0, shown: false };
  let failed = false;
  try {
    await stream(answer, article);
    setPhase("inactive");
  } catch (error) {
    if (error.name === "AbortError") {
      facts(article, ["stopped"]);
      setPhase("inactive");
    } else {
      failed = true;
      setPhase(null);
      const box = document.createElement("div");
      box.className = "error";
      box.setAttribute("role", "alert");
      box.textContent = error.message;
      article.append(box);
    }
  }
  show(answer, article);
  article.classList.remove("running");
  setRunning(null);
  // A question without an answer is no part of the conversation: it can be asked again.
  if (failed && !answer.text) {
    messages.pop();
    $("input").value = question;
    resizeInput();
  } else {
    messages.push({ role: "assistant", content: answer.text });
  }
  updateMeters();
}

async function stream(answer, article) {
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    signal: running.signal,
    body: JSON.stringify({
      messages: [...system, ...messages],
      session_id: session,
      stream: true,
      stream_options: { include_usage: true },
      ...requestOptions(),
    }),
  });
  if (!response.ok) throw new Error(await errorText(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The connection ended before the answer did.");
    buffer += value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      take(JSON.parse(data), answer, article);
    }
  }
}

async function errorText(response) {
  const body = await response.json().catch(() => null);
  const text = body?.error?.message || `HTTP ${response.status}`;
  return response.status === 401 ? `${text} (Settings has a field for it)` : text;
}

function take(chunk, answer, article) {
  if (chunk.error) throw new Error(chunk.error.message);
  const delta = chunk.choices[0]?.delta;
  if (delta?.content) {
    if (!answer.first) {
      answer.first = performance.now();
      setPhase("decode");
    }
    answer.text += delta.content;
    answer.tokens += 1;
    schedule(answer, article);
  }
  if (chunk.timings) finish(chunk, answer, article);
}

function finish(chunk, answer, article) {
  const t = chunk.timings;
  const lines = [];
  if (t.cache_n) lines.push(`${t.cache_n} tokens cached`);
  lines.push(`prefill ${t.prompt_n} tokens in ${ms(t.prompt_ms)}`);
  lines.push(`decode ${t.predicted_n} tokens at ${t.predicted_per_second.toFixed(1)}/s`);
  lines.push(`first token ${ms(answer.first - answer.started)}`);
  if (chunk.choices[0]?.finish_reason === "length") lines.push("cut at the longest answer");
  facts(article, lines);
  $("speed").textContent = `${t.predicted_per_second.toFixed(1)} tokens/s`;
}

function facts(article, lines) {
  const box = document.createElement("div");
  box.className = "facts";
  for (const line of lines) {
    const span = document.createElement("span");
    span.textContent = line;
    box.append(span);
  }
  article.append(box);
}

const ms = (value) => (value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`);

// At most one rendering per frame, however fast tokens come.
function schedule(answer, article) {
  if (answer.shown) return;
  answer.shown = true;
  requestAnimationFrame(() => {
    answer.shown = false;
    show(answer, article);
  });
}

function show(answer, article) {
  const follow = atBottom();
  article.firstChild.replaceChildren(...renderMarkup(answer.text));
  const seconds = (performance.now() - answer.first) / 1000;
  if (running && answer.first && seconds > 0.3) {
    $("speed").textContent = `${(answer.tokens / seconds).toFixed(1)} tokens/s`;
  }
  if (follow) $("log").scrollTop = $("log").scrollHeight;
}

// ---- meters ---------------------------------------------------------------------------------

const bytes = (value) =>
  value >= 1e9 ? `${(value / 1e9).toFixed(2)} GB` : `${(value / 1e6).toFixed(1)} MB`;

// Prometheus' text, as far as this server writes it: name{label="value"} number.
function parseMetrics(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    const found = line.match(/^([a-z_]+)(?:\{[a-z]+="([a-z_-]*)"\})? (\S+)$/);
    if (found) values.set(found[2] ? `${found[1]}:${found[2]}` : found[1], Number(found[3]));
  }
  return values;
}

async function updateMeters() {
  try {
    const response = await fetch("metrics", { headers: headers() });
    if (!response.ok) throw new Error();
    const values = parseMetrics(await response.text());
    $("memory").textContent = bytes(values.get("process_resident_memory_bytes") || 0);
    if (values.has("edgec_state_bytes")) $("state").textContent = bytes(values.get("edgec_state_bytes"));
    const parts = [];
    let alive = 0;
    for (const [name, count] of values) {
      if (name.startsWith("edgec_sequences:")) alive += count;
    }
    parts.push(`${alive} alive`);
    if (values.get("edgec_queued_requests")) parts.push(`${values.get("edgec_queued_requests")} waiting`);
    $("sequences").textContent = parts.join(", ");
  } catch {
    for (const id of ["memory", "state", "sequences"]) $(id).textContent = "–";
  }
}

async function updateStatus() {
  const status = $("status");
  try {
    const response = await fetch("health");
    const ready = response.ok;
    status.className = ready ? "chip ready" : "chip";
    status.textContent = ready ? "ready" : "loading";
    if (ready && !$("model").textContent) {
      const models = await fetch("v1/models", { headers: headers() });
      if (models.ok) $("model").textContent = (await models.json()).data[0].id;
    }
  } catch {
    status.className = "chip bad";
    status.textContent = "offline";
  }
}

async function poll() {
  if (!document.hidden) await Promise.all([updateStatus(), updateMeters()]);
  setTimeout(poll, running ? 1000 : 3000);
}

// ---- events ---------------------------------------------------------------------------------

function resizeInput() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  updateSend();
}

function submit() {
  const question = $("input").value.trim();
  if (!question || running) return;
  $("input").value = "";
  resizeInput();
  ask(question);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("input").addEventListener("input", resizeInput);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !$("settings").open) running.abort();
  if (event.altKey && event.code === "KeyN") { event.preventDefault(); newConversation(); }
  if (event.altKey && event.code === "KeyS") { event.preventDefault(); showSettings(); }
});
$("stop").addEventListener("click", () => { running?.abort(); $("input").focus(); });
$("new").addEventListener("click", newConversation);
$("open-settings").addEventListener("click", showSettings);
$("theme").addEventListener("click", toggleTheme);
$("settings").addEventListener("input", saveSettings);
$("settings").addEventListener("close", () => { updateStatus(); updateMeters(); $("input").focus(); });
$("reset-settings").addEventListener("click", () => {
  for (const field of $("settings").querySelectorAll("[name]")) field.value = "";
  saveSettings();
});

const theme = localStorage.getItem("edgec.theme");
if (theme) document.documentElement.dataset.theme = theme;
for (const example of EXAMPLES) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = example;
  button.addEventListener("click", () => { $("input").value = example; submit(); });
  item.append(button);
  $("examples").append(item);
}
updateSend();
poll();
