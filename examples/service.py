"""A small asyncio service: adapters come, change and go while it answers. One JSON object a line, in and out.

    python examples/service.py my-llama examples/bundle
    echo '{"prompt": "What is two times two?", "route": "math"}' | nc localhost 8765

Requests: {"prompt": …, "route": "auto" | name | alias | "@group" | [names]}, or a change: {"load": folder, "name": …},
{"reload": name, "from": folder}, {"unload": name, "wait": seconds}, {"alias": …, "for": name},
{"group": …, "members": [names]}, {"stats": true}.
"""

import asyncio
import json
import sys
from typing import Any

import meteora_rs
from meteora_rs import Auto, Meteora
from transformers import AutoModelForCausalLM, AutoTokenizer


async def answer(meteora: Meteora, tokenizer: Any, asked: dict[str, Any]) -> Any:
    """The answer to one request."""
    match asked:
        case {"prompt": prompt}:
            route = asked.get("route", "auto")
            chosen = Auto() if route == "auto" else route
            if isinstance(route, list) or route.startswith("@"):
                chosen = Auto(only=route)
            inputs = tokenizer(prompt, return_tensors="pt")
            async with meteora.routing(chosen):  # holds what it may use, whatever is loaded; the thread follows it
                output = await asyncio.to_thread(meteora.model.generate, **inputs, max_new_tokens=32)
            return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        case {"load": folder, "name": name}:
            return (await meteora.aload_adapter(folder, name)).generation
        case {"reload": name, "from": folder}:
            return (await meteora.areload_adapter(name, folder)).generation
        case {"unload": name}:
            return bool(await meteora.aunload_adapter(name, wait=asked.get("wait", 0)))
        case {"alias": alias, "for": name}:
            meteora.set_alias(alias, name)
        case {"group": group, "members": members}:
            meteora.set_group(group, members)
        case {"stats": _}:
            return meteora.stats().to_dict()
        case _:
            raise ValueError(f"no such request: {sorted(asked)}")
    return "done"


async def serve(meteora: Meteora, tokenizer: Any, port: int) -> asyncio.Server:
    """Answer each line of each connection; an error is an answer too."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                reply = {"answer": await answer(meteora, tokenizer, json.loads(line))}
            except (meteora_rs.errors.MeteoraError, OSError, ValueError) as error:
                reply = {"error": type(error).__name__, "message": str(error)}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    return await asyncio.start_server(connected, "localhost", port)


async def main(folder: str, bundle: str) -> None:
    """Serve the model in `folder` with the adapters of `bundle`."""
    meteora = meteora_rs.attach_pretrained(AutoModelForCausalLM.from_pretrained(folder), bundle)
    await (await serve(meteora, AutoTokenizer.from_pretrained(folder), 8765)).serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
