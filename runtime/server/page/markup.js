"use strict";
// Markdown as DOM nodes. The text of a model only ever becomes text nodes, so it cannot become
// markup of this page; a link leads to http, https or mailto, and a picture is only linked to.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+)(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const DELIMITERS = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 8;
// Spans have a longest length, so that no text takes long.
const INLINE = new RegExp(
  [
    "(?<ticks>`+)(?!`)(?<code>[^]{1,500}?)(?<!`)\\k<ticks>(?!`)",
    "!?\\[(?<label>[^\\[\\]\\n]{0,300})\\]\\(\\s*(?<target>[^()\\s]{1,500}(?:\\([^()\\s]{0,200}\\)[^()\\s]{0,200})?)(?:\\s+\"[^\"\\n]{0,200}\")?\\s*\\)",
    "(?<strong>\\*\\*|(?<!\\w)__)(?=\\S)(?<bold>[^]{1,500}?\\S??)(?<!\\s)\\k<strong>(?!\\*)",
    "(?<em>\\*|(?<!\\w)_)(?=[^\\s*_])(?<italic>[^\\n]{0,300}?[^\\s*])\\k<em>(?![\\w*])",
    "~~(?=\\S)(?<gone>[^\\n]{1,300}?)~~",
    "(?<url>\\bhttps?://[^\\s<>()\\[\\]`*\"']{1,500}[^\\s<>()\\[\\]`*\"'.,;:!?])",
    "\\\\(?<plain>[\\\\`*_{}\\[\\]()#+\\-.!|~>])",
  ].join("|"),
);

function element(tag, children = [], className = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function renderMarkup(text, depth = 0) {
  if (depth > DEEPEST) return [element("p", [text])];
  const lines = text.split("\n");
  const nodes = [];
  let at = 0;
  let paragraph = [];

  function flush() {
    const body = paragraph.join("\n");
    if (body.trim()) nodes.push(element("p", renderInline(body.trim())));
    paragraph = [];
  }

  while (at < lines.length) {
    const line = lines[at];
    const block = BLOCKS.find((each) => each.begins(lines, at));
    if (block) {
      flush();
      const [node, next] = block.read(lines, at, depth);
      nodes.push(node);
      at = next;
      continue;
    }
    if (line.trim()) paragraph.push(line);
    else flush();
    at += 1;
  }
  flush();
  return nodes;
}

// Each kind of block: whether one begins at a line, and its node with the line after it.
const BLOCKS = [
  { begins: (lines, at) => FENCE.test(lines[at]), read: readCode },
  { begins: (lines, at) => HEADING.test(lines[at]), read: readHeading },
  { begins: (lines, at) => RULE.test(lines[at]), read: (lines, at) => [element("hr"), at + 1] },
  { begins: (lines, at) => QUOTE.test(lines[at]), read: readQuote },
  { begins: (lines, at) => ITEM.test(lines[at]), read: readList },
  {
    begins: (lines, at) =>
      lines[at].includes("|") && DELIMITERS.test(lines[at + 1] ?? "") && lines[at + 1].includes("-"),
    read: readTable,
  },
];

function readCode(lines, at) {
  const [, fence, language] = lines[at].match(FENCE);
  const code = [];
  let next = at + 1;
  const ends = (line) => line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "");
  while (next < lines.length && !ends(lines[next])) code.push(lines[next++]);
  const text = code.join("\n");
  const copy = element("button", ["Copy"], "copy");
  copy.type = "button";
  copy.addEventListener("click", () => copyText(text, copy));
  const head = element("div", [element("span", [language || "code"]), copy], "code-head");
  return [element("div", [head, element("pre", [element("code", [text])])], "code-block"), next + 1];
}

function readHeading(lines, at) {
  const [, marks, text] = lines[at].match(HEADING);
  // The page has its own first two levels.
  return [element(`h${Math.min(6, marks.length + 2)}`, renderInline(text)), at + 1];
}

function readQuote(lines, at, depth) {
  const body = [];
  while (at < lines.length && QUOTE.test(lines[at])) body.push(lines[at++].replace(QUOTE, ""));
  return [element("blockquote", renderMarkup(body.join("\n"), depth + 1)), at];
}

function readList(lines, at, depth) {
  const first = lines[at].match(ITEM);
  const ordered = /\d/.test(first[2]);
  const list = element(ordered ? "ol" : "ul");
  if (ordered && parseInt(first[2], 10) !== 1) list.start = parseInt(first[2], 10);
  const indent = first[1].length;
  while (at < lines.length) {
    const found = lines[at].match(ITEM);
    if (!found || found[1].length > indent + 1 || /\d/.test(found[2]) !== ordered) break;
    if (RULE.test(lines[at])) break;
    const body = [found[4]];
    at += 1;
    // What is indented further belongs to the item, over a blank line too.
    while (at < lines.length) {
      const blank = !lines[at].trim();
      const line = blank ? lines[at + 1] ?? "" : lines[at];
      const deeper = line.match(/^\s*/)[0].length > indent + 1;
      const lazy = !blank && !deeper && !BLOCKS.some((each) => each.begins(lines, at));
      if (!deeper && !lazy) break;
      body.push(lines[at].slice(Math.min(lines[at].match(/^\s*/)[0].length, indent + found[2].length + 1)));
      at += 1;
    }
    const content = renderMarkup(body.join("\n"), depth + 1);
    const [head, ...rest] = content;
    const tight = head?.tagName === "P" ? [...head.childNodes, ...rest] : content;
    list.append(element("li", tight));
    if (!lines[at]?.trim() && ITEM.test(lines[at + 1] ?? "")) at += 1;
  }
  return [list, at];
}

function readTable(lines, at) {
  const cells = (line) =>
    line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/)
      .map((cell) => cell.trim().replaceAll("\\|", "|"));
  const sides = cells(lines[at + 1]).map((d) =>
    d.endsWith(":") ? (d.startsWith(":") ? "middle" : "end") : "");
  const row = (line, tag) => {
    const given = cells(line);
    return element("tr", sides.map((side, i) => element(tag, renderInline(given[i] ?? ""), side)));
  };
  const head = element("thead", [row(lines[at], "th")]);
  const body = element("tbody");
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) body.append(row(lines[at], "td"));
  return [element("div", [element("table", [head, body])], "table"), at];
}

function renderInline(text) {
  const nodes = [];
  let rest = text;
  for (let found; (found = INLINE.exec(rest)); rest = rest.slice(found.index + found[0].length)) {
    if (found.index) nodes.push(rest.slice(0, found.index));
    nodes.push(inlineNode(found[0], found.groups));
  }
  if (rest) nodes.push(rest);
  return nodes;
}

function inlineNode(whole, found) {
  if (found.code !== undefined) return element("code", [found.code.replace(/^ (.*\S.*) $/s, "$1")]);
  if (found.target !== undefined) return link(found.target, renderInline(found.label || found.target), whole);
  if (found.bold !== undefined) return element("strong", renderInline(found.bold));
  if (found.italic !== undefined) return element("em", renderInline(found.italic));
  if (found.gone !== undefined) return element("del", renderInline(found.gone));
  if (found.url !== undefined) return link(found.url, [found.url], whole);
  return found.plain;
}

function link(target, children, whole) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return whole;
  const node = element("a", children);
  node.href = target;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine there is no clipboard but the old one.
    const area = element("textarea", [text], "off-screen");
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1200);
}
