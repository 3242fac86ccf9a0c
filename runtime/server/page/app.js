"use strict";
// What the user does: writes, sends, stops, opens things.

function setRunning(run) {
  running = run;
  $("send").hidden = run !== null;
  $("stop").hidden = run === null;
  $("log").classList.toggle("busy", run !== null);
  updateSend();
}

function updateSend() {
  $("send").disabled = !$("input").value.trim();
}

function resizeInput() {
  const input = $("input");
  const follow = atBottom();
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  if (follow) $("log").scrollTop = $("log").scrollHeight;
  updateSend();
}

function updateSystem() {
  chat.system = $("system-text").value;
  $("system").classList.toggle("set", chat.system !== "");
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
  if (event.key === "Escape" && !$("settings").open) {
    if (running) running.controller.abort();
    else stopEditing();
  }
  if (event.altKey && event.code === "KeyN") { event.preventDefault(); newConversation(); }
  if (event.altKey && event.code === "KeyS") { event.preventDefault(); showSettings(); }
});
$("stop").addEventListener("click", () => { running?.controller.abort(); $("input").focus(); });
$("cancel-edit").addEventListener("click", () => { stopEditing(); $("input").focus(); });
$("new").addEventListener("click", newConversation);
$("open-settings").addEventListener("click", showSettings);
$("theme").addEventListener("click", toggleTheme);
$("settings").addEventListener("input", saveSettings);
$("settings").addEventListener("close", () => {
  if (!chat.messages.length && !chat.system) $("system-text").value = settings.system || "";
  updateSystem();
  updateStatus();
  updateMeters();
  $("input").focus();
});
$("reset-settings").addEventListener("click", clearSettings);
$("system-text").addEventListener("input", () => { updateSystem(); keepChat(); });
addEventListener("pagehide", keepChat);

for (const example of EXAMPLES) {
  const button = element("button", [example]);
  button.type = "button";
  button.addEventListener("click", () => { $("input").value = example; submit(); });
  $("examples").append(element("li", [button]));
}
drawChat();
if (chat.messages.length) setPhase("inactive");
updateSend();
poll();
