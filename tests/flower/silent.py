"""The app of a student who answers in the first round only."""

import time

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from gmfl_lite.flower import agent as honest

agent = ClientApp()


@agent.train()
def train(message: Message, context: Context) -> Message:
    if message.content["config"]["round"] > 0:
        time.sleep(3600)
    return honest(message, context)


@agent.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return honest(message, context)
