"use strict";
// Settings: kept in this browser, sent with each request.

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const settings = JSON.parse(localStorage.getItem("edgec.settings") || "{}");

const settingFields = () => $("settings").querySelectorAll("[name]");

function saveSettings() {
  for (const field of settingFields()) {
    if (field.validity.valid) settings[field.name] = field.value;
  }
  localStorage.setItem("edgec.settings", JSON.stringify(settings));
}

function showSettings() {
  for (const field of settingFields()) field.value = settings[field.name] || "";
  $("settings").showModal();
}

function clearSettings() {
  for (const field of settingFields()) field.value = "";
  saveSettings();
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

const theme = localStorage.getItem("edgec.theme");
if (theme) document.documentElement.dataset.theme = theme;
