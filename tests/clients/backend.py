"""Python's cent, unmodified, as a back end would use it: each call against one API, and what listeners hear of it.

Arguments: the API's URL, its key, and the URLs of WebSockets whose listeners must hear what is published. It ends with 0
when all was as it should be. Used by backend.test.mjs.
"""

import asyncio
import base64
import json
import sys

import cent
from websockets.asyncio.client import connect

ID = "0195d1a0-0000-7000-8000-000000000000"


async def refused(code, call):
    """The call must fail with this code of the API's."""
    try:
        outcome = await call
    except cent.CentApiResponseError as error:
        assert error.code == code, error
        return error.message
    raise AssertionError(f"expected error {code}, got {outcome}")


async def publishing(api, listeners):
    first = await api.publish(cent.PublishRequest(channel="kept:a", data={"n": 1}))
    assert (first.offset, len(first.epoch)) == (1, 8), first
    for _ in range(2):
        again = await api.publish(
            cent.PublishRequest(channel="kept:a", data="two", idempotency_key="once", tags={"a": "b"})
        )
        assert (again.offset, again.epoch) == (2, first.epoch), again
    beside = await api.publish(cent.PublishRequest(channel="kept:a", data=3, skip_history=True))
    assert (beside.offset, beside.epoch) == (0, ""), beside
    raw = base64.b64encode(b"\x00\xff").decode()
    await api.publish(cent.PublishRequest(channel="kept:a", data=None, b64data=raw))
    sent = await api.broadcast(cent.BroadcastRequest(channels=["kept:a", "nowhere:a"], data=[4]))
    assert sent.responses[0].result.offset == 4 and sent.responses[1].error.code == 102, sent
    for listener in listeners:
        heard = [await asyncio.wait_for(listener.recv(), 20) for _ in range(5)]
        assert heard == ['{"n": 1}', '"two"', "3", b"\x00\xff", "[4]"], heard
    return first.epoch


async def reading(api, epoch):
    read = await api.history(cent.HistoryRequest(channel="kept:a", limit=10))
    assert [said.offset for said in read.publications] == [1, 2, 3, 4], read
    assert (read.publications[1].data, read.publications[1].tags) == ("two", {"a": "b"}), read
    assert (read.offset, read.epoch) == (4, epoch), read
    since = cent.StreamPosition(offset=3, epoch=epoch)
    read = await api.history(cent.HistoryRequest(channel="kept:a", limit=1, since=since))
    assert [said.data for said in read.publications] == [[4]], read
    lost = cent.StreamPosition(offset=3, epoch="other")
    await refused(112, api.history(cent.HistoryRequest(channel="kept:a", limit=1, since=lost)))
    await api.history_remove(cent.HistoryRemoveRequest(channel="kept:a"))
    read = await api.history(cent.HistoryRequest(channel="kept:a", limit=10, reverse=True))
    assert (read.publications, read.offset) == ([], 4), read
    await refused(108, api.history(cent.HistoryRequest(channel="plain")))
    await refused(102, api.history(cent.HistoryRequest(channel="nowhere:a")))
    assert (await api.presence(cent.PresenceRequest(channel="kept:a"))).presence == {}
    counted = await api.presence_stats(cent.PresenceStatsRequest(channel="kept:a"))
    assert (counted.num_clients, counted.num_users) == (0, 0), counted
    await refused(108, api.presence(cent.PresenceRequest(channel="plain")))


async def listing(api, listeners):
    async def until(found):
        while not await found():
            await asyncio.sleep(0.02)

    async def channels():
        found = await api.channels(cent.ChannelsRequest(pattern="kept:*"))
        facts = found.channels.get("kept:a")
        return facts is not None and facts.num_clients == len(listeners)

    async def nodes():
        found = await api.info(cent.InfoRequest())
        return sum(node.num_clients for node in found.nodes) == len(listeners)

    await asyncio.wait_for(until(channels), 20)
    await asyncio.wait_for(until(nodes), 20)


async def controlling(api):
    override = cent.ChannelOptionsOverride(presence=cent.BoolValue(value=False))
    since = cent.StreamPosition(offset=1, epoch="x")
    everything = dict(info={"a": 1}, data={"b": 2}, client=ID, session="s", recover_since=since, override=override)
    await api.subscribe(cent.SubscribeRequest(user="42", channel="kept:a", **everything))
    await api.unsubscribe(cent.UnsubscribeRequest(user="42", channel="kept:a", client=ID))
    told = cent.Disconnect(code=4000, reason="bye")
    await api.disconnect(cent.DisconnectRequest(user="42", whitelist=[ID], disconnect=told))
    await api.disconnect(cent.DisconnectRequest(user="42", disconnect=cent.Disconnect()))
    await api.refresh(cent.RefreshRequest(user="42", expired=True, expire_at=4000000000))
    await refused(107, api.disconnect(cent.DisconnectRequest(user="42", client="me")))
    requests = [
        cent.PublishRequest(channel="plain", data={}),
        cent.PresenceStatsRequest(channel="kept:a"),
        cent.InfoRequest(),
    ]
    for parallel in [False, True]:
        done = await api.batch(cent.BatchRequest(requests=requests, parallel=parallel))
        assert [type(reply).__name__ for reply in done.replies] == ["PublishResult", "PresenceStatsResult", "InfoResult"]


async def main(url, key, sockets):
    listeners = [await connect(socket) for socket in sockets]
    api = cent.AsyncClient(url, api_key=key)
    epoch = await publishing(api, listeners)
    await reading(api, epoch)
    await listing(api, listeners)
    await controlling(api)
    wrong = cent.AsyncClient(url, api_key="wrong")
    try:
        await wrong.info(cent.InfoRequest())
        raise AssertionError("a wrong key was taken")
    except cent.CentUnauthorizedError:
        pass
    await wrong.close()
    await api.close()
    for listener in listeners:
        await listener.close()
    # Its other client, which waits.
    simple = cent.Client(url, api_key=key)
    assert simple.publish(cent.PublishRequest(channel="kept:a", data={})).offset == 5


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
