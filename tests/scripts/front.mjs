// What the tests of the front door need a JavaScript engine for: a WebSocket session with a device key, and a browser behind a TLS terminator.
//
//   node front.mjs device <ws url> <gateway token> <cookie or ""> [<attempts>]
//   node front.mjs browser <front door host:port> <setup password> <gateway token> <chromium> <directory> <host name>
//
// Each prints one JSON object. No packages.

import { spawn } from 'node:child_process'
import crypto from 'node:crypto'
import fs from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import path from 'node:path'

const base64url = (bytes) => Buffer.from(bytes).toString('base64url')
const deadline = (seconds, what) =>
    new Promise((_, reject) => setTimeout(() => reject(new Error(`${what}: not within ${seconds} s`)), seconds * 1000).unref())

// ── A device ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function newDevice() {
    const { publicKey, privateKey } = crypto.generateKeyPairSync('ed25519')
    const raw = Buffer.from(publicKey.export({ format: 'jwk' }).x, 'base64url')
    return { id: crypto.createHash('sha256').update(raw).digest('hex'), publicKey: base64url(raw), privateKey }
}

// One connection: until the answer to `connect` and, if it is let in, one more call.
function converse(url, token, cookie, device) {
    return new Promise((resolve) => {
        const outcome = { hello: false, code: null, reason: null, error: null, health: false }
        const socket = new WebSocket(url, cookie ? { headers: { Cookie: cookie } } : {})
        const send = (id, method, params) => socket.send(JSON.stringify({ type: 'req', id, method, params }))
        socket.onmessage = ({ data }) => {
            const frame = JSON.parse(data)
            if (frame.event === 'connect.challenge') {
                const { nonce, ts } = frame.payload
                const client = { id: 'cli', mode: 'cli', version: '1.0.0', platform: 'linux' }
                const role = 'operator'
                const scopes = ['operator.read', 'operator.write']
                const text = ['v2', device.id, client.id, client.mode, role, scopes.join(','), ts, token, nonce].join('|')
                const signature = base64url(crypto.sign(null, Buffer.from(text), device.privateKey))
                send('c1', 'connect', {
                    minProtocol: 4, maxProtocol: 4, client, role, scopes, caps: [], auth: { token },
                    device: { id: device.id, publicKey: device.publicKey, signature, signedAt: ts, nonce },
                })
            } else if (frame.type === 'res' && frame.id === 'c1') {
                outcome.hello = frame.ok
                outcome.error = frame.error?.code ?? null
                if (frame.ok) send('c2', 'health', {})
            } else if (frame.type === 'res' && frame.id === 'c2') {
                outcome.health = frame.ok
                socket.close()
            }
        }
        socket.onclose = ({ code, reason }) => resolve({ ...outcome, code, reason })
        socket.onerror = () => {}
    })
}

async function device(url, token, cookie, attempts = '2') {
    const device = newDevice()
    const outcomes = []
    for (let attempt = 0; attempt < Number(attempts); attempt++) {
        outcomes.push(await Promise.race([converse(url, token, cookie, device), deadline(60, 'a conversation')]))
        if (outcomes.at(-1).hello) break
    }
    return { device: device.id, outcomes }
}

// ── A browser ────────────────────────────────────────────────────────────────────────────────────────────────────────

// Ends TLS as a platform does, and says so in the headers.
function terminator(front, directory, name) {
    const [host, port] = [front.slice(0, front.lastIndexOf(':')), Number(front.slice(front.lastIndexOf(':') + 1))]
    const pem = (file) => fs.readFileSync(path.join(directory, file))
    let own = 0
    const forwarded = (request) => ({
        ...request.headers, 'x-forwarded-for': '198.51.100.23', 'x-forwarded-proto': 'https', 'x-forwarded-host': `${name}:${own}`,
    })
    const server = https.createServer({ key: pem('key.pem'), cert: pem('cert.pem') }, (request, response) => {
        const passed = http.request({ host, port, method: request.method, path: request.url, headers: forwarded(request) }, (answer) => {
            response.writeHead(answer.statusCode, answer.headers)
            answer.pipe(response)
        })
        passed.on('error', () => response.destroy())
        request.pipe(passed)
    })
    server.on('upgrade', (request, socket, head) => {
        const passed = net.connect(port, host, () => {
            const lines = Object.entries(forwarded(request)).map(([name, value]) => `${name}: ${value}`)
            passed.write(`GET ${request.url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`)
            passed.write(head)
            socket.pipe(passed).pipe(socket)
        })
        passed.on('error', () => socket.destroy())
        socket.on('error', () => passed.destroy())
    })
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve({ server, port: (own = server.address().port) })))
}

// The DevTools protocol, as much as is needed.
async function page(port) {
    const answer = await fetch(`http://127.0.0.1:${port}/json/new?about:blank`, { method: 'PUT' })
    const socket = new WebSocket((await answer.json()).webSocketDebuggerUrl)
    await new Promise((resolve, reject) => Object.assign(socket, { onopen: resolve, onerror: reject }))
    const waiting = new Map()
    const frames = []
    let next = 1
    socket.onmessage = ({ data }) => {
        const message = JSON.parse(data)
        if (message.id) waiting.get(message.id)?.(message)
        if (message.method === 'Network.webSocketFrameReceived') frames.push(message.params.response.payloadData)
    }
    const call = (method, params = {}) =>
        new Promise((resolve) => {
            waiting.set(next, ({ result, error }) => resolve(error ? { error } : result))
            socket.send(JSON.stringify({ id: next++, method, params }))
        })
    const evaluate = async (expression) => (await call('Runtime.evaluate', { expression, returnByValue: true })).result?.value
    return { call, evaluate, frames }
}

async function until(seconds, what, look) {
    const end = Date.now() + seconds * 1000
    for (;;) {
        const found = await look()
        if (found) return found
        if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`)
        await new Promise((resolve) => setTimeout(resolve, 100))
    }
}

async function browser(front, password, token, chromium, directory, name) {
    const { server, port } = await terminator(front, directory, name)
    const profile = path.join(directory, 'profile')
    const child = spawn(chromium, [
        '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--ignore-certificate-errors',
        '--remote-debugging-port=0', `--user-data-dir=${profile}`, `--host-resolver-rules=MAP ${name} 127.0.0.1`, 'about:blank',
    ], { stdio: 'ignore' })
    try {
        const debugging = await until(60, 'the browser starts', () => {
            try { return fs.readFileSync(path.join(profile, 'DevToolsActivePort'), 'utf8').split('\n')[0] } catch { return null }
        })
        const { call, evaluate, frames } = await page(debugging)
        await call('Page.enable')
        await call('Network.enable')
        const origin = `https://${name}:${port}`
        const messages = () => frames.flatMap((frame) => { try { return [JSON.parse(frame)] } catch { return [] } })
        const isIn = () => messages().some((message) => message.type === 'res' && message.payload?.type === 'hello-ok')
        const refusals = () => messages().filter((message) => message.type === 'res' && !message.ok).map((message) => message.error?.code)

        // Without a session the device waits for approval.
        await call('Page.navigate', { url: `${origin}/#token=${token}` })
        await until(90, 'the gateway refuses an unknown device', () => refusals().length > 0 || isIn())
        const before = { in: isIn(), refusals: refusals() }
        const title = await evaluate('document.title')

        // The operator signs in; the same browser is let in.
        await call('Page.navigate', { url: `https://operator:${encodeURIComponent(password)}@${name}:${port}/setup` })
        await until(30, 'the page of /setup', () => evaluate('document.querySelector("h1")?.textContent === "Agent"'))
        frames.length = 0
        await call('Page.navigate', { url: `${origin}/#token=${token}` })
        await until(90, 'the browser is let in', isIn)
        const { data } = await call('Page.captureScreenshot', { format: 'png' })
        fs.writeFileSync(path.join(directory, 'control-ui.png'), Buffer.from(data, 'base64'))
        return { origin, title, before, in: true, refusals: refusals(), text: await evaluate('document.body.innerText.slice(0, 300)') }
    } finally {
        child.kill('SIGKILL')
        server.close()
        server.closeAllConnections()
    }
}

const [command, ...rest] = process.argv.slice(2)
const commands = { device, browser }
try {
    console.log(JSON.stringify(await commands[command](...rest)))
    process.exit(0)
} catch (error) {
    console.log(JSON.stringify({ failed: String(error) }))
    process.exit(1)
}
