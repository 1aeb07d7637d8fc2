// A client of the TypeScript SDK that does what it is told, line by line, for a test in another language.
//
//   node client.mjs v1|v2|v2-modern URL     the token is in TOKEN
//
// In:  {"call": "list"}  {"call": "tool", "name": …, "arguments": …}
// Out: {"answer": …} or {"thrown": …} for each of them, and {"changed": [names]} or {"changeFailed": …} unasked.
import { createInterface } from 'node:readline';

const [kind, url] = process.argv.slice(2);
const [{ Client }, { StreamableHTTPClientTransport }] =
  kind === 'v1'
    ? await Promise.all([
        import('@modelcontextprotocol/sdk/client/index.js'),
        import('@modelcontextprotocol/sdk/client/streamableHttp.js'),
      ])
    : await import('@modelcontextprotocol/client').then((all) => [all, all]);

const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const onChanged = (error, tools) =>
  say(error ? { changeFailed: String(error) } : { changed: tools.map((tool) => tool.name) });
const options = { listChanged: { tools: { onChanged, debounceMs: 0 } } };
if (kind === 'v2-modern') options.versionNegotiation = { mode: 'auto' };

const client = new Client({ name: `test-${kind}`, version: '1.0.0' }, options);
const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
say({ answer: { server: client.getServerVersion(), instructions: client.getInstructions() } });

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  try {
    const { name, arguments: given } = asked;
    say({ answer: asked.call === 'list' ? await client.listTools() : await client.callTool({ name, arguments: given }) });
  } catch (error) {
    say({ thrown: String(error) });
  }
}
await client.close();
process.exit(0);
