"""What users of the official OpenAI SDK do, against a running server.

Usage: check.py URL KEY MODEL VERSION PICTURE   (VERSION is the SDK's, PICTURE a PNG file)
"""

import asyncio
import base64
import json
import struct
import sys
import threading
import time
import urllib.request

import openai

url, key, model, version, picture = sys.argv[1:]
assert openai.__version__ == version, openai.__version__
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
with open(picture, "rb") as file:
    data_url = "data:image/png;base64," + base64.b64encode(file.read()).decode()
look = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": data_url, "detail": "auto"}}]


def raises(error, call, param=None):
    try:
        call()
    except error as caught:
        assert param is None or caught.param == param, (param, caught.param)
        assert caught.request_id.startswith("req_"), caught.request_id
        return caught
    raise AssertionError(f"no {error.__name__}")


def models():
    ids = [card.id for card in client.models.list()]
    assert ids[0] == model and ids[1].startswith(f"{model}@"), ids
    assert all(client.models.retrieve(id).id == id for id in ids)
    raises(openai.NotFoundError, lambda: client.models.retrieve("org/gpt-5:x"), "model")


def images():
    one = client.images.generate(prompt="a red circle", model=model)
    png = base64.b64decode(one.data[0].b64_json)
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and one.size == "%dx%d" % struct.unpack(">II", png[16:24])
    assert one.usage.output_tokens > 0 and one.usage.total_tokens == one.usage.input_tokens + one.usage.output_tokens
    assert one._request_id.startswith("req_") and one.created > 1_700_000_000
    extra = {"seed": 5, "cfg_weight": 2.0, "temperature": 0.5}
    four = client.images.generate(prompt="a star", model=model, n=4, size="auto", response_format="b64_json", extra_body=extra)
    assert [item.seed for item in four.data] == [5, 6, 7, 8] and len({item.b64_json for item in four.data}) == 4
    jpeg = client.images.generate(prompt="a star", size="256x256", output_format="jpeg", output_compression=80, user="me")
    assert base64.b64decode(jpeg.data[0].b64_json)[:2] == b"\xff\xd8" and jpeg.size == "256x256"
    raw = client.images.with_raw_response.generate(prompt="a star")
    assert len(raw.headers["x-model-version"]) == 64 and int(raw.headers["openai-processing-ms"]) >= 0
    for wrong in [{"size": "1024x1792"}, {"n": 11}, {"style": "vivid"}, {"quality": "hd"}]:
        raises(openai.BadRequestError, lambda: client.images.generate(prompt="x", **wrong), next(iter(wrong)))
    raises(openai.BadRequestError, lambda: client.images.edit(image=b"x", prompt="x"), "image")


def chat():
    question = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    plain = client.chat.completions.create(model=model, messages=question, max_completion_tokens=8, seed=1, temperature=1)
    assert plain.object == "chat.completion" and plain.choices[0].message.role == "assistant"
    assert plain.choices[0].finish_reason in ("stop", "length") and plain.usage.completion_tokens <= 8
    seen = client.chat.completions.create(model=model, messages=[{"role": "user", "content": look}], max_tokens=8, n=2, top_p=0.9)
    assert len(seen.choices) == 2 and seen.usage.prompt_tokens > 16
    # The reply object goes back as it is.
    turns = [{"role": "user", "content": look}, seen.choices[0].message, {"role": "user", "content": "and?"}]
    if seen.choices[0].message.content:
        client.chat.completions.create(model=model, messages=turns, max_tokens=2)
    probable = client.chat.completions.create(
        model=model, messages=question, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = probable.choices[0].logprobs.content
    assert tokens and all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens)
    text = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
    assert text == probable.choices[0].message.content, (text, probable.choices[0].message.content)
    raises(openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-5", messages=question), "model")
    raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=model, messages=question, tools=[{"type": "function", "function": {"name": "f"}}]),
        "tools",
    )
    bad = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=model, messages=bad),
        "messages[0].content[0].image_url",
    )


def kept():
    asked = {"model": model, "messages": [{"role": "user", "content": look}], "max_tokens": 4}
    mine = [client.chat.completions.create(**asked, store=True, metadata={"run": url, "at": str(i)}) for i in range(3)]
    client.chat.completions.create(**asked, store=False, metadata={"run": url})
    listed = [chat.id for chat in client.chat.completions.list(limit=2, metadata={"run": url})]
    assert listed == [chat.id for chat in mine], (listed, mine)
    newest = client.chat.completions.list(limit=1, order="desc", metadata={"run": url, "at": "1"}).data[0]
    assert newest.id == mine[1].id and newest.choices[0].message.content == mine[1].choices[0].message.content
    assert client.chat.completions.retrieve(mine[0].id).usage.total_tokens == mine[0].usage.total_tokens
    messages = list(client.chat.completions.messages.list(mine[0].id))
    assert [message.role for message in messages] == ["user"] and "What is this?" in messages[0].content
    noted = client.chat.completions.update(mine[0].id, metadata={"seen": "yes"})
    assert noted.metadata == {"seen": "yes"}
    assert client.chat.completions.delete(mine[0].id).deleted
    raises(openai.NotFoundError, lambda: client.chat.completions.retrieve(mine[0].id), "id")

    drawn = client.images.generate(prompt="a star", n=2, response_format="url")
    with urllib.request.urlopen(drawn.data[0].url) as link:
        assert link.read(8) == b"\x89PNG\r\n\x1a\n"
    ids = [item.sample_id for item in drawn.data]
    feedback = client.post("/feedback", body={"preferred": ids[1], "over": [ids[0]], "rater": "sdk"}, cast_to=object)
    assert feedback["sample_id"] == ids[1], feedback
    again = {"sample_id": ids[0], "thumb": "up", "feedback_id": url}
    assert client.post("/feedback", body=again, cast_to=object)["id"] == client.post("/feedback", body=again, cast_to=object)["id"]
    other = {"sample_id": ids[0], "thumb": "down", "feedback_id": url}
    raises(openai.ConflictError, lambda: client.post("/feedback", body=other, cast_to=object), "feedback_id")
    raises(openai.UnprocessableEntityError, lambda: client.post("/feedback", body={"sample_id": ids[0], "correction": "x"}, cast_to=object))


def stream():
    arguments = {"model": model, "messages": [{"role": "user", "content": look}], "max_tokens": 12, "seed": 3, "temperature": 1}
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content, (said, whole.choices[0].message.content)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    with client.chat.completions.stream(**arguments) as events:
        assert "".join(event.delta for event in events if event.type == "content.delta") == said


def tuning():
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ("a red star", "two circles", "a blue cross"))
    sent = [client.files.create(file=(f"rows{i}.jsonl", rows.encode()), purpose="fine-tune") for i in range(3)]
    file = client.files.wait_for_processing(sent[0].id)
    assert file.status == "processed" and file.id.startswith("file-") and file.bytes == len(rows), file
    assert client.files.content(file.id).read() == rows.encode()
    assert [one.id for one in client.files.list(purpose="fine-tune", limit=1, order="asc")] == [one.id for one in sent]
    timed = client.files.create(
        file=("r.jsonl", b"{}"), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert timed.expires_at == timed.created_at + 3600
    raises(openai.BadRequestError, lambda: client.files.create(file=("r", b"no"), purpose="fine-tune"), "file")
    raises(openai.BadRequestError, lambda: client.files.create(file=("r", b"{}"), purpose="evals"), "purpose")

    graders = client.fine_tuning.alpha.graders
    check = {
        "type": "string_check",
        "name": "same",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "operation": "eq",
    }
    assert graders.validate(grader=check).grader.name == "same"
    tried = graders.run(grader=check, model_sample="red", item={"answer": "red"})
    assert tried.reward == 1 and not tried.metadata.errors.other_error and tried.metadata.name == "same", tried
    raises(openai.BadRequestError, lambda: graders.validate(grader={"type": "python", "name": "p", "source": ""}), "grader.type")

    jobs = client.fine_tuning.jobs
    verifier = {"type": "verifier", "name": "shapes", "partial": 0.5}
    reinforcement = {"grader": verifier, "hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}
    asked = {
        "model": model,
        "training_file": file.id,
        "method": {"type": "reinforcement", "reinforcement": reinforcement},
        "seed": 4,
        "suffix": "sdk",
        "metadata": {"run": url},
    }
    mine = [jobs.create(**asked) for _ in range(3)]
    job = jobs.retrieve(mine[0].id)
    assert job.status == "queued" and job.object == "fine_tuning.job" and job.fine_tuned_model is None, job
    assert job.hyperparameters.n_epochs == 2 and job.method.type == "reinforcement" and job.seed == 4, job
    listed = [one.id for one in jobs.list(limit=1, metadata={"run": url})]
    assert listed == [one.id for one in reversed(mine)], (listed, mine)
    events = list(jobs.list_events(job.id, limit=1))
    assert len(events) >= 2 and events[-1].message.startswith("Created") and events[0].level in ("info", "warn"), events
    assert list(jobs.checkpoints.list(job.id)) == []
    assert jobs.pause(job.id).status == "paused" and jobs.resume(job.id).status == "queued"
    assert [jobs.cancel(one.id).status for one in mine] == ["cancelled"] * 3
    raises(openai.ConflictError, lambda: jobs.cancel(job.id), "id")
    raises(openai.NotFoundError, lambda: jobs.create(**{**asked, "model": "gpt-5"}), "model")
    supervised = {**asked, "method": {"type": "supervised"}}
    raises(openai.BadRequestError, lambda: jobs.create(**supervised), "method.type")
    assert client.files.delete(file.id).deleted
    raises(openai.NotFoundError, lambda: client.files.retrieve(file.id), "id")


async def together():
    many = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key)
    pictures = [many.images.generate(prompt="a star", extra_body={"seed": 9}) for _ in range(2)]
    one, two = await asyncio.gather(*pictures)
    assert one.data[0].b64_json == two.data[0].b64_json


def refused():
    stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-wrong")
    raises(openai.AuthenticationError, stranger.models.list)
    hasty = client.with_options(max_retries=0)
    long = {"model": model, "messages": [{"role": "user", "content": "tell me everything"}], "n": 8, "temperature": 2}
    leave = threading.Event()

    def listen():
        while not leave.is_set():
            try:
                for _ in hasty.chat.completions.create(**long, stream=True):
                    if leave.is_set():
                        return
            except openai.RateLimitError:
                time.sleep(0.05)

    threads = [threading.Thread(target=listen) for _ in range(5)]
    for thread in threads:
        thread.start()
    # Five listeners for two rows and two places in the queue: sooner or later a sixth finds no place.
    error = None
    for _ in range(200):
        try:
            with hasty.chat.completions.create(**long, stream=True):
                time.sleep(0.05)
        except openai.RateLimitError as refusal:
            error = refusal
            break
    leave.set()
    assert error is not None and 0 < int(error.response.headers["retry-after"]) <= 120
    for thread in threads:
        thread.join()
    # Everybody has left: the SDK's own retries find the server free again.
    assert client.with_options(max_retries=5).images.generate(prompt="a star").data


for step in (models, images, chat, kept, tuning, stream, lambda: asyncio.run(together()), refused):
    step()
print("ok")
