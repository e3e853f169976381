// What a tenant's files were served with before Winston's sidecar, as a peer for its benchmarks.
//
// It stands for the small Node program whose file API the sidecar still speaks (GET and PUT of /files/<path> as JSON). It is written
// anew, does per request what that one did, and keeps its habits where they cost or save time: the token is compared as text, a file is
// read as UTF-8 and hashed for each GET, a PUT overwrites the file in place without any flush, and every write is logged twice, once by
// the request and once by the watcher that sees it. Left out is what only made it slower: the Express framework with its routes and
// body parser, and a library's watch for each file instead of each directory. So what is measured here is faster than that one was.
//
// Environment: PEER_ROOT (the directory that it serves), WINSTON_SIDECAR_TOKEN. Prints the port that it listens on.

import { createHash } from "node:crypto";
import { promises as fs, watch } from "node:fs";
import http from "node:http";
import path from "node:path";

const root = path.resolve(process.env.PEER_ROOT);
const token = process.env.WINSTON_SIDECAR_TOKEN;
const logFile = path.join(root, ".winston", "changes.jsonl");
const mostBytes = 10 * 1024 * 1024;

const sha256 = (text) => createHash("sha256").update(text).digest("hex");

async function log(name, source, action) {
    const line = JSON.stringify({ timestamp: new Date().toISOString(), path: name, source, action });
    await fs.appendFile(logFile, line + "\n");
}

function answer(response, status, value) {
    const text = Buffer.from(JSON.stringify(value), "utf-8");
    response.writeHead(status, { "Content-Type": "application/json; charset=utf-8", "Content-Length": text.length });
    response.end(text);
}

async function body(request) {
    const pieces = [];
    let bytes = 0;
    for await (const piece of request) {
        bytes += piece.length;
        if (bytes > mostBytes) {
            throw new Error("request entity too large");
        }
        pieces.push(piece);
    }
    return JSON.parse(Buffer.concat(pieces).toString("utf-8"));
}

async function get(name, file, response) {
    const content = await fs.readFile(file, "utf-8");
    const stat = await fs.stat(file);
    answer(response, 200, {
        path: name,
        content,
        size: stat.size,
        modified: stat.mtime.toISOString(),
        hash: sha256(content),
    });
}

async function put(name, file, request, response) {
    const { content } = await body(request);
    if (content === undefined || content === null) {
        return answer(response, 400, { error: "Missing content field" });
    }
    const exists = await fs.access(file).then(() => true, () => false);
    await fs.mkdir(path.dirname(file), { recursive: true });
    await fs.writeFile(file, content, "utf-8");
    const stat = await fs.stat(file);
    await log(name, "admin", exists ? "update" : "create");
    answer(response, 200, { success: true, path: name, size: stat.size, hash: sha256(content) });
}

async function serve(request, response) {
    const { pathname } = new URL(request.url, "http://sidecar");
    if (pathname === "/health") {
        return answer(response, 200, { status: "ok", service: "winston-sidecar", uptime: process.uptime() });
    }
    if ((request.headers.authorization ?? "").replace("Bearer ", "") !== token) {
        return answer(response, 401, { error: "Unauthorized" });
    }
    if (!pathname.startsWith("/files/")) {
        return answer(response, 404, { error: "Not found" });
    }
    const name = decodeURIComponent(pathname.slice("/files/".length));
    const file = path.resolve(root, name);
    if (!file.startsWith(root + path.sep) || name.startsWith(".winston")) {
        return answer(response, 403, { error: "Access denied" });
    }
    try {
        if (request.method === "GET") {
            await get(name, file, response);
        } else if (request.method === "PUT") {
            await put(name, file, request, response);
        } else {
            answer(response, 404, { error: "Not found" });
        }
    } catch (error) {
        answer(response, error.code === "ENOENT" ? 404 : 500, { error: error.message, path: name });
    }
}

// Its watcher: Markdown, JSON and everything below skills/, told of once for each new modification time.
const seen = new Map();
const ignored = /(^|\/)(\.winston|node_modules|\.git)(\/|$)/;

async function watchDirectory(name) {
    watch(path.join(root, name), (_, child) => child && void noticed(path.join(name, child)).catch(() => {}));
    for (const entry of await fs.readdir(path.join(root, name), { withFileTypes: true })) {
        await found(path.join(name, entry.name), entry.isDirectory());
    }
}

// What is there from the start is not logged.
async function found(name, isDirectory) {
    if (isDirectory && !ignored.test(name)) {
        await watchDirectory(name);
    } else if (!isDirectory) {
        seen.set(name, (await fs.stat(path.join(root, name))).mtimeMs);
    }
}

async function noticed(name) {
    if (ignored.test(name)) {
        return;
    }
    const stat = await fs.stat(path.join(root, name)).catch(() => null);
    if (stat?.isDirectory() && !seen.has(name)) {
        seen.set(name, 0);
        return watchDirectory(name);
    }
    if (!/\.(md|json)$/.test(name) && !name.startsWith("skills/")) {
        return;
    }
    const time = stat?.mtimeMs;
    if (seen.get(name) !== time) {
        const action = time === undefined ? "delete" : seen.has(name) ? "update" : "create";
        seen.set(name, time);
        await log(name, "agent", action);
    }
}

await fs.mkdir(path.dirname(logFile), { recursive: true });
await watchDirectory("");
const server = http.createServer((request, response) => void serve(request, response));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
