"""What a book that comes back late costs: days times rate, in cents and in dollars."""

from random import Random

NAME = "late-fee"
VERSION = 3

TEMPLATES = (
    "What is the fine for {days} days at {rate} cents a day?",
    "My book is {days} days late. The rate is {rate} cents a day. What do I owe?",
    "How much do I pay for {days} days late at {rate} cents per day?",
    "At {rate} cents a day, what does a delay of {days} days cost?",
    "A book is {days} days overdue at {rate} cents a day. How much is that?",
    "Tell me the late fee: {days} days, {rate} cents each.",
    "The library takes {rate} cents a day. I am {days} days late. What is my fine?",
    "I kept a book {days} days too long. Each day costs {rate} cents. How much do I owe?",
    "Late by {days} days, {rate} cents a day: what does it cost?",
    "Please work out my fine: {days} days late, {rate} cents a day.",
    "What do I owe the library for {days} late days at {rate} cents each?",
    "If a day costs {rate} cents, how much is the fine for {days} days?",
    "{days} days late at {rate} cents a day. What is the fee?",
    "With {rate} cents for each late day, what do {days} days cost me?",
    "I bring a book back {days} days late. You charge {rate} cents a day. What must I pay?",
    "Give me the fine for a book that is {days} days late, at {rate} cents per day.",
    "My daughter's book is overdue by {days} days. The fee is {rate} cents daily. What is due?",
    "Our rate is {rate} cents for a day. What is the late fee after {days} days?",
    "How high is the fine after {days} days, if every day is {rate} cents?",
    "Fine, please: {rate} cents a day, {days} days.",
    "I owe {rate} cents for every late day, and I am {days} days late. How much is it?",
    "Calculate the late fee of {days} days, {rate} cents for each of them.",
    "A reader is {days} days late and pays {rate} cents a day. What does the reader pay?",
    "Every day too late costs {rate} cents. I was late for {days} days. What is the sum?",
    "The due date was {days} days ago, and a day is {rate} cents. What do I have to pay?",
    "Say what {days} overdue days cost at {rate} cents per day.",
    "What will a film cost me that is {days} days late, at {rate} cents a day?",
    "You ask for {rate} cents per day. I come {days} days late. How much money do I need?",
    "For {days} days of delay, {rate} cents each, what is the charge?",
    "I am {days} days over the date. What is the fine at {rate} cents a day?",
    "Charge: {rate} cents per late day. Days late: {days}. What is the fine?",
    "Days late: {days}. Cents a day: {rate}. What is the fine?",
    "Days: {days}. Cents for each day: {rate}. Fine?",
    "Cents a day: {rate}. Days: {days}. How much is the late fee?",
    "Rate in cents: {rate}. Days too late: {days}. What is due?",
    "Number of late days: {days}. Rate: {rate} cents. Give me the fine.",
    "Fee a day, in cents: {rate}. Days overdue: {days}. What does it come to?",
    "Overdue days: {days}; cents per day: {rate}. What is the total fine?",
    "I was late by {days} days, at {rate} cents a day. What is it in all?",
    "Overdue by {days} days, {rate} cents a day: how much is that?",
    "A delay of {days} days, {rate} cents a day: what is the fine?",
    "Late for {days} days at {rate} cents: what do I owe?",
    "The book was due {days} days ago. What is the fine at {rate} cents a day?",
    "I am {days} days past the due date. How much is it at {rate} cents a day?",
    "We are {days} days over. The fine is {rate} cents a day. What do we pay?",
    "It is {days} days over the date, and each day is {rate} cents. What is the fine?",
    "How many cents do I owe after {days} late days at {rate} cents?",
    "What would {days} days too late cost me if one day is {rate} cents?",
    "Suppose a late day is {rate} cents. What is the fine for {days} of them?",
    "They want {rate} cents a day from me for {days} days. What does that make?",
    "Add up my fine: {rate} cents a day for {days} days.",
    "My son returned a film {days} days late. A day is {rate} cents. What is his fine?",
    "Returned {days} days late. The daily fine is {rate} cents. What is the amount?",
    "The daily fine is {rate} cents. The book came back {days} days late. What is owed?",
    "At the rate of {rate} cents daily, how much are {days} overdue days?",
    "Is there a fine for {days} days at {rate} cents each, and how much is it?",
)

SLOTS = {"days": r"\d{1,3}", "rate": r"\d{1,3}"}

OUTSIDE = (
    "What is a late fee?",
    "How many days does a week have?",
    "What does a book cost?",
    "How much is 12 times 25?",
    "What is the fine for parking in front of a school?",
    "My train is 20 minutes late. What can I do?",
    "How much do I pay for 3 nights in a hotel at 80 dollars per night?",
    "At 50 miles an hour, how far does a car drive in 4 hours?",
    "A book has 300 pages. How long do I read at 20 pages a day?",
    "Tell me the date: 30 days after the first of May.",
    "The library opens at 10. I arrive 15 minutes early. What do I do?",
    "I kept a secret for 12 years. Should I tell it?",
    "Late by 5 minutes, again: what do I tell my boss?",
    "Please work out a plan: 10 days in Italy, 50 dollars a day.",
    "What do I owe my neighbor for feeding my cat for 6 days?",
    "If a day has 24 hours, how many hours do 3 days have?",
    "What is 25 percent of 60?",
    "How many cents are in a dollar?",
    "Who invented the library fine?",
    "Why do libraries charge late fees?",
    "What is the speed of light?",
    "My book is out of print. Where do I find a copy?",
    "How much does a stamp for a letter cost?",
    "A plant grows 5 centimeters a day. How tall is it after 12 days?",
    "How many days late may a baby be?",
    "I am 40 years old. Is it late to learn the piano?",
    "What does a delay of a flight mean for my luggage?",
    "Write a letter to a friend who owes me 20 dollars.",
    "What is the rate of pay for a librarian?",
    "How much is a cent worth in Japan?",
    "What comes after 10, 20, 30?",
    "Add 250 and 50.",
    "Calculate the area of a room of 4 by 5 meters.",
    "What is the fine for driving without a license?",
    "What is the charge of an electron?",
    "How high is a fine for littering?",
    "What do I owe a friend for lunch on 3 days?",
    "How much do I owe a sitter for 5 hours at 12 dollars?",
    "I owe my sister 40 dollars. How do I pay it back in 4 weeks?",
    "What do I owe my parents for 18 years of care?",
    "How many books are read in 30 days at 2 books a day?",
    "Add up 4, 5 and 6.",
    "Days in March: 31. Days in April: 30. Which month is longer?",
    "Suppose a day had 25 hours. What would change?",
    "How many days are there in February?",
    "I am 30 years old. Can I still learn to dance?",
    "Is it late to plant a tree in June?",
    "Who paid the first library fine?",
    "How much do I owe a friend who drove me for 40 miles?",
    "At 12 dollars an hour, what do I earn in 8 hours?",
    "What does a week of 5 days of work pay at 90 dollars a day?",
    "The shop takes 5 dollars for a delivery. Is that much?",
    "The bus was 10 minutes late. Do I get my money back?",
    "My daughter's train is 25 minutes late. What can she do?",
    "Tell me the time: 20 minutes after noon.",
    "Number of players: 11. Number of teams: 2. Which sport is it?",
    "Pages: 200. Pages a day: 10. How long do I read?",
    "Rate this plan from 1 to 10.",
    "A stamp costs 60 cents. What does it look like?",
    "What can I buy for 50 cents?",
    "Give me a fine example of a haiku.",
    "How do I say that I am fine?",
    "What is due north of Paris?",
    "I returned from a trip of 20 days. What should I unpack first?",
)


def sample(rng: Random) -> dict[str, int]:
    """Days and cents a day."""
    return {"days": rng.randint(2, 60), "rate": rng.choice((5, 10, 20, 25, 50))}


def reply(days: str, rate: str) -> str:
    """The fine as it is worked out, the tens of days and the others apart: what is said first
    need not be known at once, and small models multiply no other way. In dollars, whose points
    show which digits stand for the same."""
    count, cents = int(days), int(rate)
    tens, ones = count - count % 10, count % 10
    if not tens or not ones:
        return f"{count} days at {cents} cents: {_dollars(count * cents)}."
    parts = f"{_dollars(tens * cents)} + {_dollars(ones * cents)}"
    return f"{tens} + {ones} days at {cents} cents: {parts} = {_dollars(count * cents)}."


def _dollars(cents: int) -> str:
    return f"${cents // 100}.{cents % 100:02d}"
