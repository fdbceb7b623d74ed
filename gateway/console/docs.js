// The API's documentation, drawn from /openapi.json. No library, no foreign script.
"use strict";

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// A schema in one readable shape: fields with their types, references followed.
function shape(schema, all, depth = 0) {
  if (!schema || depth > 6) return "…";
  if (schema.$ref) return shape(all[schema.$ref.split("/").pop()], all, depth);
  const either = schema.anyOf || schema.oneOf;
  if (either) return either.map((one) => shape(one, all, depth)).join(" or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `[${shape(schema.items, all, depth)}]`;
  if (schema.type === "object" && schema.properties) {
    const pad = "  ".repeat(depth + 1);
    const required = new Set(schema.required || []);
    const lines = Object.entries(schema.properties).map(([name, field]) => {
      const note = field.description ? `   // ${field.description.replace(/\s+/g, " ")}` : "";
      return `${pad}${name}${required.has(name) ? "" : "?"}: ${shape(field, all, depth + 1)}${note}`;
    });
    return `{\n${lines.join("\n")}\n${"  ".repeat(depth)}}`;
  }
  if (schema.type === "object" && schema.additionalProperties) {
    return `{name: ${shape(schema.additionalProperties, all, depth + 1)}}`;
  }
  return schema.format ? `${schema.type} (${schema.format})` : schema.type || "any";
}

function block(title, content, all) {
  const parts = [];
  for (const [kind, body] of Object.entries(content || {})) {
    parts.push(element("p", `${title}: ${kind}`, "quiet"));
    if (body.schema) parts.push(element("pre", shape(body.schema, all)));
  }
  return parts;
}

function operation(method, path, found, all) {
  const entry = element("details");
  const head = element("summary");
  head.append(element("span", method.toUpperCase(), "method"), element("code", path), ` ${found.summary || ""}`);
  entry.append(head);
  if (found.description) entry.append(element("p", found.description));
  for (const one of found.parameters || []) {
    const line = element("p");
    line.append(element("code", one.name), ` in ${one.in}${one.required ? "" : ", optional"}: ${shape(one.schema, all)} ${one.description || ""}`);
    entry.append(line);
  }
  if (found.requestBody) entry.append(...block("Body", found.requestBody.content, all));
  for (const [status, response] of Object.entries(found.responses || {})) {
    entry.append(element("p", `${status}: ${response.description || ""}`));
    entry.append(...block("Response", response.content, all));
  }
  return entry;
}

async function draw() {
  const target = document.getElementById("operations");
  const response = await fetch("/openapi.json");
  if (!response.ok) {
    target.textContent = `openapi.json cannot be read (${response.status}).`;
    return;
  }
  const description = await response.json();
  const groups = new Map();
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, found] of Object.entries(methods)) {
      const group = (found.tags || ["other"])[0];
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(operation(method, path, found, description.components?.schemas || {}));
    }
  }
  for (const [group, entries] of groups) target.append(element("h2", group), ...entries);
}

draw();
