"""The service of examples/ answers while adapters come and go."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import meteora_rs
import pytest
from meteora_rs import Meteora
from tiny_text import save_adapter, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

SERVICE = Path(__file__).parents[1] / "examples" / "service.py"


@pytest.fixture
def service() -> ModuleType:
    spec = importlib.util.spec_from_file_location("service", SERVICE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_answers_while_adapters_come_and_go(service: ModuleType, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    folders = [str(save_adapter(tmp_path / f"a{seed}", model, seed)) for seed in range(3)]
    meteora: Meteora = meteora_rs.attach(AutoModelForCausalLM.from_pretrained(model))
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = "how many plums do I have ?"

    async def session(port: int, *requests: dict[str, Any]) -> list[Any]:
        reader, writer = await asyncio.open_connection("localhost", port)
        replies = []
        for request in requests:
            writer.write(json.dumps(request).encode() + b"\n")
            replies.append(json.loads(await reader.readline()))
        writer.close()
        await writer.wait_closed()
        return replies

    async def main() -> None:
        server = await service.serve(meteora, tokenizer, 0)
        port = server.sockets[0].getsockname()[1]
        ask = lambda route: {"prompt": prompt, "route": route}  # noqa: E731
        loaded = await session(
            port,
            {"load": folders[0], "name": "math"},
            {"load": folders[1], "name": "law"},
            {"alias": "prod", "for": "math"},
            {"group": "tenant", "members": ["prod", "law"]},
            ask("math"),
            ask("law"),
        )
        assert all("answer" in reply for reply in loaded)
        math, law = (reply["answer"] for reply in loaded[-2:])
        assert math != law
        routes = ["prod", "law", "auto", "@tenant", ["law"], "math"]
        changes = [{"reload": "law", "from": folders[2]}, {"load": folders[2], "name": "new"}, {"unload": "new"}]
        *answers, changed = await asyncio.gather(
            *(session(port, ask(route)) for route in routes), session(port, *changes)
        )
        assert answers[0][0]["answer"] == answers[5][0]["answer"] == math
        assert all("answer" in reply for reply in (*changed, *(each[0] for each in answers)))
        refused = await session(
            port, {"unload": "math"}, ask("nobody"), {"load": "./nowhere", "name": "x"}, {"sing": 1}, {"stats": True}
        )
        assert [reply.get("error") for reply in refused[:4]] == [
            "AdapterInUseError", "AdapterNotFoundError", "FileNotFoundError", "ValueError",
        ]  # fmt: skip
        assert refused[4]["answer"]["slots"]["live"] == 2
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))  # connections end by themselves

    asyncio.run(main())
    assert meteora.stats().held == ()
