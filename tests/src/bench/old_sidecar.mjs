// What a tenant's files were served with before Winston's sidecar, as a peer for its benchmarks.
//
// It stands for the small Node program whose file API the sidecar still speaks (GET and PUT of /files/<path> as JSON). It is written
// anew, with the same libraries (Express 4 and its body parser, chokidar 3), and does per request what that one did, its habits included:
// the token is compared as text, a file is read as UTF-8 and hashed for each GET, a PUT overwrites the file in place without any flush,
// and every write is logged twice, once by the request and once by the watcher that sees it.
//
// Environment: PEER_ROOT (the directory that it serves), PEER_MODULES (a directory whose node_modules has the libraries),
// WINSTON_SIDECAR_TOKEN. Prints the port that it listens on.

import { createHash } from "node:crypto";
import { promises as fs } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.PEER_MODULES, "package.json"));
const [express, chokidar] = [require("express"), require("chokidar")];

const root = path.resolve(process.env.PEER_ROOT);
const token = process.env.WINSTON_SIDECAR_TOKEN;
const logFile = path.join(root, ".winston", "changes.jsonl");

const sha256 = (text) => createHash("sha256").update(text).digest("hex");

async function log(name, source, action) {
    const line = JSON.stringify({ timestamp: new Date().toISOString(), path: name, source, action });
    await fs.appendFile(logFile, line + "\n");
}

async function get(name, file, response) {
    const content = await fs.readFile(file, "utf-8");
    const stat = await fs.stat(file);
    response.json({ path: name, content, size: stat.size, modified: stat.mtime.toISOString(), hash: sha256(content) });
}

async function put(name, file, request, response) {
    const { content } = request.body;
    if (content === undefined || content === null) {
        return response.status(400).json({ error: "Missing content field" });
    }
    const exists = await fs.access(file).then(() => true, () => false);
    await fs.mkdir(path.dirname(file), { recursive: true });
    await fs.writeFile(file, content, "utf-8");
    const stat = await fs.stat(file);
    await log(name, "admin", exists ? "update" : "create");
    response.json({ success: true, path: name, size: stat.size, hash: sha256(content) });
}

// What both routes have in common: where the file is, and what an error is answered with.
const on = (job) => async (request, response) => {
    const name = request.params[0];
    const file = path.resolve(root, name);
    if (!file.startsWith(root + path.sep) || name.startsWith(".winston")) {
        return response.status(403).json({ error: "Access denied" });
    }
    try {
        await job(name, file, request, response);
    } catch (error) {
        response.status(error.code === "ENOENT" ? 404 : 500).json({ error: error.message, path: name });
    }
};

const app = express();
app.use(express.json({ limit: "10mb" }));
app.get("/health", (_, response) => response.json({ status: "ok", service: "winston-sidecar", uptime: process.uptime() }));
app.use((request, response, next) => {
    if ((request.headers.authorization ?? "").replace("Bearer ", "") !== token) {
        return response.status(401).json({ error: "Unauthorized" });
    }
    next();
});
app.get("/files/*", on((name, file, _, response) => get(name, file, response)));
app.put("/files/*", on(put));

// Its watcher: Markdown, JSON and everything below skills/. What is there from the start is not logged.
await fs.mkdir(path.dirname(logFile), { recursive: true });
const watcher = chokidar.watch(["**/*.md", "**/*.json", "skills/**/*"], {
    cwd: root,
    ignored: /\.winston|node_modules|\.git/,
    ignoreInitial: true,
});
for (const [event, action] of [["add", "create"], ["change", "update"], ["unlink", "delete"]]) {
    watcher.on(event, (name) => void log(name, "agent", action).catch(() => {}));
}
await new Promise((ready) => watcher.once("ready", ready));
const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
