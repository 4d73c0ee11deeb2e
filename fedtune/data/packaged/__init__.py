"""Converters of the packaged data sets: an unpacked archive becomes `rows.parquet` and `about.json`."""

from fedtune.data.packaged.dialogue import convert_trivia
from fedtune.data.packaged.digits import convert_mnist
from fedtune.data.packaged.mail import convert_spam_mails
from fedtune.data.packaged.sentiment import convert_movie_reviews, convert_product_reviews, convert_tweets

__all__ = [
    "convert_mnist",
    "convert_movie_reviews",
    "convert_product_reviews",
    "convert_spam_mails",
    "convert_trivia",
    "convert_tweets",
]
