"use strict";
// The conversation: asked for as a stream, shown as it comes, kept over a reload.

const EXAMPLES = ["Tell me a story", "Explain a hash table in two sentences", "In the beginning"];

let chat = keptChat() ?? emptyChat();
let running = null; // the answer in progress
let editing = null; // the question that the composer replaces

function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return "page-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

function emptyChat() {
  return { session: newSession(), system: settings.system || "", messages: [] };
}

function keptChat() {
  try {
    const kept = JSON.parse(localStorage.getItem("edgec.chat"));
    const whole = kept?.messages.every((m) => typeof m.role + typeof m.content === "stringstring");
    return whole && kept.session ? kept : null;
  } catch {
    return null; // of another version
  }
}

function keepChat() {
  try {
    localStorage.setItem("edgec.chat", JSON.stringify(chat));
  } catch {
    showError("This conversation has become too long to be kept over a reload.");
  }
}

function newConversation() {
  running?.controller.abort();
  chat = emptyChat();
  keepChat();
  drawChat();
  setPhase(null);
  $("speed").textContent = "–";
  $("input").focus();
}

// ---- drawing --------------------------------------------------------------------------------

function drawChat() {
  stopEditing();
  clearError();
  for (const node of document.querySelectorAll(".message")) node.remove();
  for (const message of chat.messages) drawMessage(message);
  $("welcome").hidden = chat.messages.length > 0;
  $("system-text").value = chat.system;
  $("system").open = false;
  updateSystem();
  $("log").scrollTop = $("log").scrollHeight;
}

function addMessage(role) {
  $("welcome").hidden = true;
  const article = element("article", [element("div", [], "text")], `message ${role}`);
  article.setAttribute("aria-label", role === "user" ? "You" : "Model");
  $("log").append(article);
  return article;
}

function drawMessage(message) {
  const article = addMessage(message.role);
  article.message = message;
  const mine = message.role === "user";
  article.firstChild.append(...(mine ? [message.content] : renderMarkup(message.content)));
  const buttons = element("div", [], "buttons");
  const add = (label, title, action) => {
    const button = element("button", [label]);
    button.type = "button";
    button.title = title;
    button.addEventListener("click", () => action(button));
    buttons.append(button);
  };
  add("Copy", "Copy the text", (button) => copyText(message.content, button));
  if (mine) add("Edit", "Ask in other words", () => startEditing(message));
  else add("Retry", "Answer again", () => retry(message));
  article.append(buttons);
  drawEnd(article, message);
  return article;
}

function drawEnd(article, message) {
  for (const node of article.querySelectorAll(".facts, .error")) node.remove();
  const facts = element("div", (message.facts ?? []).map((fact) => element("span", [fact])), "facts");
  if (message.facts?.length) article.insertBefore(facts, article.querySelector(".buttons"));
  if (message.error) article.insertBefore(errorBox(message.error), article.querySelector(".buttons"));
}

function errorBox(text) {
  const box = element("div", [text], "error");
  box.setAttribute("role", "alert");
  return box;
}

// Above the composer, where it is seen wherever the conversation is scrolled to.
function showError(text) {
  $("notice").replaceChildren(errorBox(text));
}

function clearError() {
  $("notice").replaceChildren();
}

function atBottom() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
}

// ---- editing and asking again -----------------------------------------------------------------

function cutAt(message) {
  chat.messages.length = chat.messages.indexOf(message);
  for (const node of document.querySelectorAll(".message")) {
    if (!chat.messages.includes(node.message)) node.remove();
  }
}

function startEditing(message) {
  if (running) return;
  editing = message;
  $("input").value = message.content;
  $("composer").classList.add("editing");
  $("input").focus();
  resizeInput();
}

function stopEditing() {
  if (editing === null) return;
  editing = null;
  $("composer").classList.remove("editing");
  $("input").value = "";
  resizeInput();
}

function retry(message) {
  if (running) return;
  stopEditing();
  cutAt(message);
  answer();
}

function ask(question) {
  const replaced = editing;
  stopEditing();
  if (replaced) cutAt(replaced);
  chat.messages.push({ role: "user", content: question });
  drawMessage(chat.messages.at(-1));
  return answer();
}

// ---- the answer -------------------------------------------------------------------------------

async function answer() {
  clearError();
  const own = chat;
  const history = own.messages.map(({ role, content }) => ({ role, content }));
  const message = { role: "assistant", content: "", facts: [] };
  own.messages.push(message);
  const article = drawMessage(message);
  article.classList.add("running");
  $("log").scrollTop = $("log").scrollHeight;
  const controller = new AbortController();
  const run = { message, article, controller, started: performance.now(), first: 0, tokens: 0, drawn: true };
  setRunning(run);
  setPhase(history.length > 1 ? "follow-up" : "prefill");
  let problem = null;
  try {
    await stream(run, own, history);
  } catch (error) {
    if (error.name === "AbortError") message.facts = ["stopped"];
    else problem = error.message;
  }
  article.classList.remove("running");
  if (running === run) setRunning(null);
  if (own !== chat) return; // another conversation has begun, and this one is gone
  setPhase(problem === null ? "inactive" : null);
  if (message.content) {
    if (problem !== null) message.error = problem;
    const follow = atBottom();
    show(run);
    drawEnd(article, message);
    if (follow || problem !== null) $("log").scrollTop = $("log").scrollHeight;
  } else if (problem !== null || message.facts[0] === "stopped") {
    // A question without an answer is no part of the conversation: it can be asked again.
    const question = own.messages.at(-2);
    cutAt(question);
    $("welcome").hidden = own.messages.length > 0;
    $("input").value = [question.content, $("input").value].filter(Boolean).join("\n");
    resizeInput();
    if (problem !== null) showError(problem);
  } else {
    drawEnd(article, message);
  }
  keepChat();
  updateMeters();
}

async function stream(run, own, history) {
  const system = own.system ? [{ role: "system", content: own.system }] : [];
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    signal: run.controller.signal,
    body: JSON.stringify({
      messages: [...system, ...history],
      session_id: own.session,
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
      if (!event.startsWith("data: ")) continue; // a comment, which keeps the connection
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      take(JSON.parse(data), run);
    }
  }
}

async function errorText(response) {
  const body = await response.json().catch(() => null);
  const text = body?.error?.message || `HTTP ${response.status}`;
  return response.status === 401 ? `${text} (Settings has a field for it)` : text;
}

function take(chunk, run) {
  if (chunk.error) throw new Error(chunk.error.message);
  const delta = chunk.choices[0]?.delta;
  if (delta?.content) {
    if (!run.first) {
      run.first = performance.now();
      setPhase("decode");
    }
    run.message.content += delta.content;
    run.tokens += 1;
    schedule(run);
  }
  if (chunk.timings) finish(chunk, run);
}

function finish(chunk, run) {
  const t = chunk.timings;
  const facts = [];
  if (t.cache_n) facts.push(`${count(t.cache_n, "token")} cached`);
  facts.push(`prefill ${count(t.prompt_n, "token")} in ${ms(t.prompt_ms)}`);
  facts.push(`decode ${count(t.predicted_n, "token")} at ${t.predicted_per_second.toFixed(1)}/s`);
  if (run.first) facts.push(`first token ${ms(run.first - run.started)}`);
  if (chunk.choices[0]?.finish_reason === "length") {
    facts.push(settings.max_tokens ? "cut at the longest answer" : "cut at the end of the context");
  }
  run.message.facts = facts;
  $("speed").textContent = `${t.predicted_per_second.toFixed(1)} tokens/s`;
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const ms = (value) => (value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`);

// At most one rendering per frame, however fast tokens come.
function schedule(run) {
  if (!run.drawn) return;
  run.drawn = false;
  requestAnimationFrame(() => {
    run.drawn = true;
    if (running === run) show(run);
  });
}

function show(run) {
  const follow = atBottom();
  run.article.firstChild.replaceChildren(...renderMarkup(run.message.content));
  const seconds = (performance.now() - run.first) / 1000;
  if (running === run && run.first && seconds > 0.3) {
    $("speed").textContent = `${(run.tokens / seconds).toFixed(1)} tokens/s`;
  }
  if (follow) $("log").scrollTop = $("log").scrollHeight;
}
