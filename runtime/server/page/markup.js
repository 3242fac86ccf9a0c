"use strict";
// A little Markdown as DOM nodes: fenced code, paragraphs, `code` and **bold**. The text of a
// model only ever becomes text nodes, so it cannot become markup of this page.

function renderMarkup(text) {
  const nodes = [];
  const parts = text.split(/^```[^\n]*\n?/m);
  parts.forEach((part, index) => {
    if (index % 2 === 1) {
      const pre = document.createElement("pre");
      pre.append(part.replace(/\n$/, ""));
      nodes.push(pre);
      return;
    }
    for (const paragraph of part.split(/\n{2,}/)) {
      const body = paragraph.replace(/^\n+|\n+$/g, "");
      if (!body.trim()) continue;
      const p = document.createElement("p");
      p.append(...renderInline(body));
      nodes.push(p);
    }
  });
  return nodes;
}

function renderInline(text) {
  const nodes = [];
  for (const piece of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    let node = piece;
    if (/^`[^`]+`$/.test(piece)) {
      node = document.createElement("code");
      node.append(piece.slice(1, -1));
    } else if (/^\*\*[^*]+\*\*$/.test(piece)) {
      node = document.createElement("strong");
      node.append(piece.slice(2, -2));
    }
    if (piece) nodes.push(node);
  }
  return nodes;
}
