// Validates the AsyncAPI document on standard input with the official parser; prints its findings, one per line.
import { readFileSync } from 'node:fs';
import { Parser } from '@asyncapi/parser';

const ERROR = 0;
const { document, diagnostics } = await new Parser().parse(readFileSync(0, 'utf8'));
for (const { severity, code, path, message } of diagnostics) {
  console.log(severity, code, path.join('.'), message);
}
process.exit(document && !diagnostics.some(({ severity }) => severity === ERROR) ? 0 : 1);
